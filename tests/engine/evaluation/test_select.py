"""What stays of a data set, and that it is a data set again."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch

from engine import Alignment, Selection, generate, select
from engine.apps.cli import main
from engine.classifiers import Classifier, Preprocess, load_classifier, save_classifier
from engine.classifiers.base import frozen_classifier
from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.errors import ConfigError, OutputError
from engine.evaluation import l_bn_share as selecting
from engine.evaluation.images import open_images
from engine.evaluation.l_bn_share import greedy_by_share
from engine.evaluation.quotas import quotas
from engine.guidance.objective import Objective
from engine.settings import Sampling
from engine.types import ImageKey, Sample

LOGITS = {
    # (class, index): logits; the teacher is wrong about (0, 2) and (1, 0)
    (0, 0): [3.0, 0.0],
    (0, 1): [1.0, 0.0],
    (0, 2): [0.0, 9.0],
    (0, 3): [2.0, 0.0],
    (1, 0): [5.0, 0.0],
    (1, 1): [0.0, 2.0],
    (1, 2): [0.0, 1.0],
    (1, 3): [0.0, 3.0],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of two classes; L_BN grows with the index."""
    with open_dataset(
        tmp_path / "all", {"classifier": {"name": "t"}}, {0: "dog", 1: "horse"}
    ) as writer:
        for (number, index), logits in LOGITS.items():
            writer.add(
                Sample(
                    key=ImageKey(number, index),
                    label=("dog", "horse")[number],
                    seed=0,
                    prompt="a",
                    token="",
                    image=torch.rand(3, 16, 16),
                    logits=torch.tensor(logits),
                    l_bn=1.0 + index,
                    confidence=0.5,
                    group="",
                )
            )
        writer.finish({})
    return tmp_path / "all"


def kept(folder: Path) -> list[tuple[int, int]]:
    return [(row.class_index, row.index) for _, row in read_dataset(folder)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(by="energy"), [(0, 0), (0, 3), (1, 1), (1, 3)]),
        (Selection(by="energy", agreement=False), [(0, 0), (0, 2), (1, 0), (1, 3)]),
        (Selection(by="l_bn"), [(0, 0), (0, 1), (1, 1), (1, 2)]),
        (Selection(by="l_bn", keep=0.25), [(0, 0), (1, 1)]),
        (Selection(by="l_bn", keep=1.0), sorted(LOGITS)),
    ],
)
def test_what_goes_first(
    folder: Path, tmp_path: Path, selection: Selection, expected, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    report = select("~/all", "~/kept", selection)
    assert kept(tmp_path / "kept") == expected
    assert report["images"] == 8
    assert report["kept"] == len(expected)
    assert report["recognised"] == 6
    assert report["recognised_kept"] == sum(
        LOGITS[key][key[0]] == max(LOGITS[key]) for key in expected
    )


def test_kept_images_are_the_same_bytes_under_their_own_names(folder: Path, tmp_path: Path) -> None:
    select(folder, tmp_path / "kept", Selection(by="energy"))
    rows = {row.key: (path, row) for path, row in read_dataset(folder)}
    for path, row in read_dataset(tmp_path / "kept"):
        there, was = rows[row.key]
        assert path.name == there.name
        assert path.read_bytes() == there.read_bytes()
        assert (row.logits == was.logits).all()
        assert row.l_bn == was.l_bn
    config = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert config["selected_from"]["classifier"] == {"name": "t"}
    assert config["selection"]["by"] == "energy"


def test_chance_is_seeded(folder: Path, tmp_path: Path) -> None:
    select(folder, tmp_path / "a", Selection(by="chance"))
    select(folder, tmp_path / "b", Selection(by="chance"))
    assert kept(tmp_path / "a") == kept(tmp_path / "b")
    found = set()
    for seed in range(8):
        select(folder, tmp_path / f"s{seed}", Selection(by="chance", selection_seed=seed))
        found.add(tuple(kept(tmp_path / f"s{seed}")))
    assert len(found) > 1


def test_greedy_removal_takes_the_image_whose_absence_helps_most() -> None:
    """One removal equals the best of all subsets; several never end above the start."""
    values = torch.randn(6, 3, 40, dtype=torch.float64)
    values[4] += 5
    means, squares = values.mean(2), values.square().mean(2)

    def loss(mean, variance):
        return mean.square().sum(1) + (variance - 1).square().sum(1)

    def of(places) -> float:
        mean = means[list(places)].mean(0, keepdim=True)
        return float(loss(mean, squares[list(places)].mean(0, keepdim=True) - mean.square()))

    classes = torch.zeros(6, dtype=torch.long)
    best = min(combinations(range(6), 5), key=of)
    assert greedy_by_share(means, squares, loss, classes, {0: 5}) == list(best)
    assert 4 not in best
    assert of(greedy_by_share(means, squares, loss, classes, {0: 3})) < of(range(6))


def test_quotas_hold_in_each_class() -> None:
    assert quotas([0, 0, 0, 0, 1, 1, 2], 0.5) == {0: 2, 1: 1, 2: 1}
    means = torch.randn(7, 2, dtype=torch.float64)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    stay = greedy_by_share(
        means, means.square() + 1, lambda m, v: m.square().sum(1), classes, {0: 2, 1: 1, 2: 1}
    )
    assert sorted(classes[stay].tolist()) == [0, 0, 1, 2]


@pytest.fixture
def teacher(tiny_resnet) -> Classifier:
    labels = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    return frozen_classifier(
        "tiny", tiny_resnet, Preprocess(crop=(16, 16)), labels, torch.device("cpu")
    )


def test_by_share_the_kept_images_together_are_nearer_to_the_teacher(
    teacher, tiny_prior, tmp_path
) -> None:
    classes, sampling = ["dog", "horse"], Sampling(steps=2)
    list(
        generate(
            teacher, tiny_prior, classes, 6, method="plain", sampling=sampling, out=tmp_path / "all"
        )
    )
    objective = Objective(teacher, Alignment())
    distance = {}
    for by in ("l_bn_share", "chance"):
        select(tmp_path / "all", tmp_path / by, Selection(agreement=False, by=by), teacher)
        assert [row.class_index for _, row in read_dataset(tmp_path / by)] == [0] * 3 + [4] * 3
        (images,) = open_images(tmp_path / by).batches(6)
        with torch.no_grad():
            distance[by] = float(objective.value(images))
    assert distance["l_bn_share"] < distance["chance"]
    with pytest.raises(ConfigError, match="got no classifier, expected 'tiny'"):
        select(tmp_path / "all", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_quotas_hold_over_all_chunks(teacher, tiny_prior, tmp_path, monkeypatch) -> None:
    """A chunk that has two images of a class must not keep one of each at a share of a quarter."""
    monkeypatch.setattr(selecting, "CHUNK", 4)
    classes, sampling = ["dog", "horse"], Sampling(steps=2)
    list(
        generate(
            teacher, tiny_prior, classes, 8, method="plain", sampling=sampling, out=tmp_path / "all"
        )
    )
    select(tmp_path / "all", tmp_path / "kept", Selection(agreement=False, keep=0.25), teacher)
    assert [row.class_index for _, row in read_dataset(tmp_path / "kept")] == [0, 0, 4, 4]
    again = select(tmp_path / "kept", tmp_path / "again", Selection(agreement=False), teacher)
    assert again["kept"] == 2


def test_another_teacher_is_refused(folder: Path, tmp_path: Path, teacher) -> None:
    with pytest.raises(ConfigError, match="was made with the classifier 't' and 'tiny' is another"):
        select(folder, tmp_path / "kept", Selection(), teacher)


def test_the_teacher_that_the_folder_names_is_loaded(
    tmp_path, classifier_folder: Path, tiny_prior, capsys
) -> None:
    named = load_classifier(classifier_folder, device="cpu")
    sampling = Sampling(steps=2)
    list(
        generate(
            named, tiny_prior, ["dog"], 4, method="plain", sampling=sampling, out=tmp_path / "all"
        )
    )
    select(tmp_path / "all", tmp_path / "told", Selection(), named)
    select(tmp_path / "all", tmp_path / "found")
    assert kept(tmp_path / "found") == kept(tmp_path / "told")
    assert (
        main(
            ["select", str(tmp_path / "all"), "--out", str(tmp_path / "command"), "--device", "cpu"]
        )
        == 0
    )
    assert kept(tmp_path / "command") == kept(tmp_path / "told")
    labels = named.labels[::-1]
    save_classifier(
        classifier_folder,
        named.network,
        architecture="resnet8",
        labels=labels,
        preprocess=named.preprocess,
    )
    with pytest.raises(
        ConfigError, match=r"got no classifier, expected '.*classifier', which"
    ):  # another one by that name
        select(tmp_path / "all", tmp_path / "none")


def test_a_selection_is_written_elsewhere(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out is .*all itself, expected another folder"):
        select(folder, tmp_path / "." / "all", Selection(by="energy"))
    select(folder, tmp_path / "kept", Selection(by="energy"))
    with pytest.raises(
        OutputError, match=r"kept holds images selected from another folder, expected a new folder"
    ):
        open_dataset(tmp_path / "kept", {"classifier": {"name": "t"}}, {0: "dog", 1: "horse"})
    with open_dataset(tmp_path / "begun", {}, {0: "dog", 1: "horse"}) as writer:
        writer.add(load_sample(*next(read_dataset(folder))))
    with pytest.raises(OutputError, match="begun holds generated images, no selection"):
        select(folder, tmp_path / "begun", Selection(by="energy"))


@pytest.mark.parametrize("keep", [0, -1, 1.5])
def test_a_share_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="expected a share above 0 and at most 1"):
        Selection(keep=keep)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["select", str(folder), "--out", str(tmp_path / "kept"), "--by", "energy"]
    assert main(command) == 0
    assert "4 of 8 images in" in capsys.readouterr().err
    assert main([*command, "--keep", "0.25"]) == 2
    assert "selection.keep is 0.5 there and 0.25 here" in capsys.readouterr().err
    assert main([*command, "--device", "cpu", "--architecture", "resnet8"]) == 2
    told = "--device, --architecture came with --by energy, expected none: only l_bn_share looks at the images"
    assert told in capsys.readouterr().err
    assert main(["select", str(tmp_path), "--out", str(tmp_path / "x"), "--by", "energy"]) == 2
    assert "has no manifest.parquet" in capsys.readouterr().err
    with pytest.raises(OutputError):
        select(tmp_path, tmp_path / "y", Selection(by="energy"))
