"""Folders, parquet files and statistics through the evaluator and the command; every mistake is one sentence."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from engine import Evaluation, Sample, evaluate
from engine.apps.cli import main
from engine.classifiers import Preprocess, load_classifier, save_classifier
from engine.datasets.dataset import open_dataset
from engine.errors import ConfigError, MissingExtraError, ModelError, OutputError
from engine.evaluation.extractors import classifier_extractor, inception_extractor, load_extractor
from engine.evaluation.images import open_images
from engine.evaluation.metrics import fid, gaussian
from engine.events import Event, Events, Progressed
from engine.types import ImageKey

FEW = Evaluation(neighbours=2, density_neighbours=3, resamples=5, kid_subsets=3, prd_clusters=3)
FROM_FEATURES = {
    "fid",
    "kid",
    "inception_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "prd_precision",
    "prd_recall",
}
TEACHER = {"teacher_accuracy", "teacher_confidence", "l_bn", "set_l_bn"}


@pytest.fixture(scope="module")
def judge():
    return load_extractor("judge", "cpu")


def parquet(path: Path, folder: Path, domains: list[str]) -> Path:
    files = sorted(folder.rglob("*.png"))
    rows = [
        {
            "image": {"bytes": file.read_bytes(), "path": None},
            "label": file.parent.name,
            "domain": domain,
        }
        for file, domain in zip(files, domains, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_data_set_is_measured_whole(tmp_path: Path, make_folder, judge) -> None:
    """A folder of ours: its contact sheet is not an image of it, and its manifest tells what the teacher said."""
    with open_dataset(tmp_path / "set", {}, {0: "dog", 1: "horse"}) as writer:
        for index in range(8):
            logits = torch.tensor([2.0, 0.0]) if index < 6 else torch.tensor([0.0, 2.0])
            writer.add(
                Sample(
                    key=ImageKey(0, index),
                    label="dog",
                    seed=0,
                    prompt="",
                    token="",
                    logits=logits,
                    image=torch.rand(3, 32, 32),
                    l_bn=10.0 + index,
                    confidence=0.5,
                    group="",
                )
            )
        writer.finish({})
    steps: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progressed):
            steps.append(event.units)

    report = evaluate(
        tmp_path / "set", "judge", judge, domain="sketch", settings=FEW, events=Events(watch)
    )
    assert report["images"] == 8
    assert report["reference_images"] == int((load_judge_domains() == 3).sum())
    assert set(report["metrics"]) == FROM_FEATURES | TEACHER
    assert report["metrics"]["teacher_accuracy"]["value"] == 0.75
    assert report["metrics"]["l_bn"]["value"] == 13.5
    assert report["metrics"]["l_bn"]["low"] < 13.5 < report["metrics"]["l_bn"]["high"]
    assert sum(steps) == 8 + FEW.resamples
    assert (
        "the folder has 8 images, fewer than the 192 features: FID is biased upwards"
        in report["warnings"][0]
    )
    assert json.loads(json.dumps(report)) == report
    next((tmp_path / "set" / "images").rglob("*.png")).unlink()
    with pytest.raises(OutputError, match=r"png is missing, expected all .* `ddis generate` again"):
        evaluate(tmp_path / "set", "judge", judge, settings=FEW)


def load_judge_domains() -> torch.Tensor:
    from engine.embedded.judge import load_judge

    return load_judge().reference_domains


def test_folder_parquet_and_statistics_say_the_same(tmp_path: Path, make_folder, judge) -> None:
    images = make_folder(tmp_path / "images", 7)
    real = make_folder(tmp_path / "real", 12, side=48, brightness=180, seed=1)
    mixed = parquet(tmp_path / "real.parquet", real, ["photo"] * 9 + ["sketch"] * 3)
    for path in sorted(real.rglob("*.png"))[9:]:
        path.unlink()
    kept = tmp_path / "kept" / "real.safetensors"
    alone = evaluate(real, None, judge, settings=FEW, statistics=kept)
    assert alone["images"] == 9
    assert alone["reference_images"] is None
    first = evaluate(images, real, judge, settings=FEW)
    by_parquet = evaluate(images, mixed, judge, domain="photo", settings=FEW)
    by_statistics = evaluate(images, kept, judge, settings=FEW)
    assert first["metrics"] == by_parquet["metrics"] == by_statistics["metrics"]
    assert first["metrics"]["teacher_accuracy"] is None
    pixels = [torch.cat(list(open_images(folder).batches(4))) for folder in (images, real)]
    expected = fid(*(gaussian(judge(part)[0]) for part in pixels))
    assert first["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-6)
    low, high = (first["metrics"]["fid"][end] for end in ("low", "high"))
    assert low < expected < high


def test_several_folders_are_measured_as_one(tmp_path: Path, make_folder, judge) -> None:
    whole = make_folder(tmp_path / "whole", 9)
    files = sorted(whole.rglob("*.png"))
    parts = [tmp_path / "a", tmp_path / "b"]
    for number, file in enumerate(files):
        part = parts[number >= 4]
        part.mkdir(exist_ok=True)
        shutil.copy(file, part / f"{number}.png")
    one, several = (
        evaluate(what, "judge", judge, domain="photo", settings=FEW) for what in (whole, parts)
    )
    assert several["images"] == len(files)
    assert several["metrics"]["fid"]["value"] == pytest.approx(one["metrics"]["fid"]["value"])
    with pytest.raises(ConfigError, match="got no folder, expected at least one"):
        evaluate([], "judge", judge)


def test_moments_alone_are_enough_for_fid(tmp_path: Path, make_folder, judge) -> None:
    images, real = make_folder(tmp_path / "images", 6), make_folder(tmp_path / "real", 6, seed=1)
    kept = tmp_path / "real.safetensors"
    evaluate(real, None, judge, statistics=kept, moments_only=True, settings=FEW)
    by_moments = evaluate(images, kept, judge, settings=FEW)["metrics"]
    whole = evaluate(images, real, judge, settings=FEW)["metrics"]
    for name in ("fid", "inception_score"):
        assert by_moments[name] == whole[name]
    assert {name for name, entry in by_moments.items() if entry is None} == (
        FROM_FEATURES | TEACHER
    ) - {
        "fid",
        "inception_score",
    }


def test_without_resamples_there_are_no_intervals(tmp_path: Path, make_folder, judge) -> None:
    images = make_folder(tmp_path / "images", 6)
    settings = Evaluation(neighbours=2, density_neighbours=2, prd_clusters=3, resamples=0)
    metrics = evaluate(images, images, judge, settings=settings)["metrics"]
    assert metrics["precision"] == {"value": 1.0, "low": None, "high": None}
    assert metrics["fid"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_classifier_s_features_are_what_its_last_layer_reads(tiny_resnet) -> None:
    classifier = load_classifier(
        tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
    )
    extractor = classifier_extractor(classifier)
    images = torch.rand(3, 3, 20, 20)
    features, logits = extractor(images)
    assert features.shape == (3, extractor.width)
    torch.testing.assert_close(tiny_resnet.linear(features), logits)
    torch.testing.assert_close(logits, classifier.logits(images))
    assert not any(layer._forward_pre_hooks for layer in classifier.network.modules())


def test_a_classifier_without_a_linear_head_is_refused() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    classifier = load_classifier(
        body, labels=["a", "b"], preprocess=Preprocess.squash(8), device="cpu"
    )
    with pytest.raises(ModelError, match="no linear layer that gives its 2 logits"):
        classifier_extractor(classifier)


def test_inception_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(MissingExtraError, match=r"extra 'inception'.*ddis\[inception\]"):
        load_extractor("inception", "cpu")


def test_an_architecture_belongs_to_a_classifier_s_features() -> None:
    with pytest.raises(
        ConfigError, match="architecture is 'resnet8' with features 'judge', expected none"
    ):
        load_extractor("judge", "cpu", architecture="resnet8")


@pytest.mark.timm
def test_inception_reads_a_local_file_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    extractor = inception_extractor(tmp_path / "weights.pth", torch.device("cpu"))
    images = torch.rand(2, 3, 32, 32)
    expected = network((images * 255).round().byte())
    torch.testing.assert_close(extractor(images), (expected[0], expected[1]))
    assert (extractor.width, extractor.classes) == (2048, 1008)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"no route to host.*pass it as `inception_weights`"):
        inception_extractor(None, torch.device("cpu"))


def broken(folder: Path) -> None:
    (folder / "dog" / "001.png").write_bytes((folder / "dog" / "001.png").read_bytes()[:300])


def no_image(folder: Path) -> None:
    (folder / "dog" / "001.png").write_text("not an image")


def other_size(folder: Path) -> None:
    Image.new("RGB", (40, 32)).save(folder / "horse" / "zzz.png")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (broken, r"001\.png cannot be read"),
        (no_image, r"001\.png is no image"),
        (other_size, r"zzz\.png is of 40 x 32 pixels and the first image of 32 x 32"),
        (empty, "has no images, expected a folder with images"),
        (shutil.rmtree, "there is no .*images, expected a folder"),
    ],
)
def test_folders_that_cannot_be_measured(
    tmp_path: Path, make_folder, judge, harm, message: str
) -> None:
    folder = make_folder(tmp_path / "images", 6)
    harm(folder)
    with pytest.raises(ConfigError, match=message):
        evaluate(folder, "judge", judge, settings=FEW)


def test_an_unfinished_data_set_is_refused(tmp_path: Path, judge) -> None:
    with (
        open_dataset(tmp_path / "set", {}, {0: "dog"}),
        pytest.raises(ConfigError, match="has no images"),
    ):
        evaluate(tmp_path / "set", "judge", judge, settings=FEW)
    (tmp_path / "set" / "images").mkdir()
    with pytest.raises(
        OutputError, match="call generate again with the same settings to finish it"
    ):
        evaluate(tmp_path / "set", "judge", judge, settings=FEW)


def test_references_that_do_not_fit(tmp_path: Path, make_folder, judge, tiny_resnet) -> None:
    images = make_folder(tmp_path / "images", 6)
    other = classifier_extractor(
        load_classifier(
            tiny_resnet, labels=list("abcdefg"), preprocess=Preprocess.squash(16), device="cpu"
        )
    )
    kept = tmp_path / "kept.safetensors"
    evaluate(images, None, other, statistics=kept, settings=FEW)
    own = tmp_path / "own.safetensors"
    evaluate(images, None, judge, statistics=own, settings=FEW)
    table = parquet(tmp_path / "real.parquet", images, ["photo"] * 6)
    pq.write_table(pa.table({"label": ["dog"]}), tmp_path / "words.parquet")
    (tmp_path / "cut.safetensors").write_bytes(kept.read_bytes()[:-8])
    cases = [
        (None, None, "evaluate got no reference"),
        (tmp_path / "nowhere", None, "there is no .*nowhere"),
        (kept, None, "has features of classifier-.* and the folder those of judge-"),
        (tmp_path / "cut.safetensors", None, "cannot be read as statistics"),
        (own, "photo", "are of no single domain.* statistics are of one set, leave `domain` out"),
        (table, "oil", "domain 'oil' is in no row of .*, expected one of photo"),
        (images, "photo", "was asked of the folder"),
        (tmp_path / "words.parquet", None, "is no parquet file of images"),
        (
            "judge",
            "oil",
            "domain 'oil' is unknown to the judge, expected one of art_painting, cartoon",
        ),
    ]
    for reference, domain, message in cases:
        with pytest.raises(ConfigError, match=message):
            evaluate(images, reference, judge, domain=domain, settings=FEW)
    with pytest.raises(
        ConfigError, match="the reference is the judge's and the features are those of classifier"
    ):
        evaluate(images, "judge", other, settings=FEW)
    small = make_folder(tmp_path / "small", 3)
    with pytest.raises(
        ConfigError,
        match=r"neighbours is 3 and the reference .*small has 3 images, expected 1 <= k < images",
    ):
        evaluate(images, small, judge, settings=Evaluation(resamples=0))
    with pytest.raises(
        ConfigError, match=r"features are 'resnet', expected 'judge', 'classifier:<source>'"
    ):
        evaluate(images, "judge", "resnet")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"neighbours": 0}, "neighbours is 0"),
        ({"kid_subset_size": 1}, "kid_subset_size is 1"),
        ({"resamples": 1}, "resamples is 1, expected 0 or at least 2"),
    ],
)
def test_settings_that_make_no_sense(field: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluation(**field)


def test_the_command(
    tmp_path: Path, make_folder, tiny_resnet, capsys: pytest.CaptureFixture[str]
) -> None:
    images, real = make_folder(tmp_path / "images", 6), make_folder(tmp_path / "real", 8, seed=1)
    save_classifier(
        tmp_path / "net",
        tiny_resnet,
        architecture="resnet8",
        labels=list("abcdefg"),
        preprocess=Preprocess.squash(16),
    )
    asked = [
        "evaluate",
        str(images),
        "--reference",
        str(real),
        "--features",
        f"classifier:{tmp_path / 'net'}",
        "--resamples",
        "4",
        "--prd-clusters",
        "3",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "report" / "r.json"),
    ]
    assert main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "report" / "r.json").read_text())
    assert (printed["images"], printed["reference_images"]) == (6, 8)
    assert printed["settings"]["resamples"] == 4
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert f"{images}: 6 images, compared with {real}: 8 images of the reference" in printed.out
    assert "features of classifier-" in printed.out
    assert "precision" in printed.out
    assert "needs a manifest or" in printed.out
    assert "warning" not in printed.out
    assert "warning: the folder has 6 images, fewer than" in printed.err
    assert main([*asked, "--quiet"]) == 0
    assert capsys.readouterr() == printed
    assert main(["evaluate", str(images)]) == 2
    assert "pass --reference" in capsys.readouterr().err


def test_statistics_that_cannot_be_kept_are_an_error(tmp_path: Path, make_folder, judge) -> None:
    images = make_folder(tmp_path / "images", 6)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        evaluate(images, None, judge, statistics=tmp_path / "file" / "s.safetensors", settings=FEW)


def test_bytes_that_are_paths_are_refused(tmp_path: Path, make_folder, judge) -> None:
    images = make_folder(tmp_path / "images", 6)
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "paths.parquet")
    with pytest.raises(ConfigError, match="holds no bytes"):
        evaluate(images, tmp_path / "paths.parquet", judge, settings=FEW)
