"""What an evaluation is asked for: domains of parquet files, refusals before anything is measured, what it reports."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from engine import Evaluation, evaluate
from engine.apps.cli import main
from engine.errors import ConfigError, OutputError
from engine.evaluation.entries import RESAMPLED, entry
from engine.evaluation.extractors import Extractor, load_extractor

FEW = Evaluation(neighbours=2, density_neighbours=2, resamples=4, kid_subsets=3, prd_clusters=3)


def by_mean(width: int = 4) -> Extractor:
    """Features of fixed random projections of the pixels' means: fast, and telling bright sets from dark ones."""
    mixing = torch.randn(192, width, generator=torch.Generator().manual_seed(0))

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ mixing
        return features, features[:, :3]

    return Extractor(name="test", width=width, classes=3, run=run)


@pytest.fixture
def mixed(tmp_path: Path, make_folder) -> Path:
    """A parquet file of 8 bright photos and 6 dark sketches."""
    rows = []
    for domain, number, brightness in (("photo", 8, 255), ("sketch", 6, 90)):
        folder = make_folder(tmp_path / domain, number, brightness=brightness)
        rows += [
            {"image": {"bytes": file.read_bytes()}, "label": file.parent.name, "domain": domain}
            for file in sorted(folder.rglob("*.png"))
        ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mixed.parquet")
    return tmp_path / "mixed.parquet"


def test_a_domain_picks_rows_of_measured_files_too(
    tmp_path: Path, make_folder, mixed: Path
) -> None:
    extractor, real = by_mean(), make_folder(tmp_path / "real", 7, seed=5)
    whole = evaluate(mixed, real, extractor, settings=FEW)
    picked = evaluate(mixed, real, extractor, domain="sketch", settings=FEW)
    as_folder = evaluate(tmp_path / "sketch", real, extractor, settings=FEW)
    assert (whole["images"], picked["images"]) == (14, 6)
    assert picked["metrics"] == as_folder["metrics"] != whole["metrics"]
    assert (picked["domain"], picked["images_domain"], picked["reference_domain"]) == (
        "sketch",
        "sketch",
        None,
    )
    both = evaluate(mixed, mixed, extractor, domain="sketch", settings=FEW)
    assert (both["images"], both["reference_images"], both["reference_domain"]) == (6, 6, "sketch")
    assert both["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-9)
    beside = evaluate(real, mixed, extractor, domain="sketch", settings=FEW)
    assert (beside["images"], beside["images_domain"], beside["reference_images"]) == (7, None, 6)


def test_saved_statistics_are_of_the_domain_and_say_so(tmp_path: Path, mixed: Path) -> None:
    extractor, kept = by_mean(), tmp_path / "sketch.safetensors"
    assert (
        evaluate(mixed, None, extractor, domain="sketch", settings=FEW, statistics=kept)["images"]
        == 6
    )
    with safe_open(kept, "pt") as file:
        assert file.metadata()["domain"] == "sketch"
        assert file.get_tensor("features").shape == (6, 4)
    report = evaluate(tmp_path / "photo", kept, extractor, settings=FEW)
    assert report["reference_domain"] == "sketch"
    assert evaluate(mixed, kept, extractor, domain="sketch", settings=FEW)["images"] == 6
    with pytest.raises(
        ConfigError, match=r"domain 'photo' was asked of the statistics .* which are of 'sketch'"
    ):
        evaluate(mixed, kept, extractor, domain="photo", settings=FEW)


def test_a_domain_that_nothing_has_is_refused(tmp_path: Path, mixed: Path) -> None:
    kept = tmp_path / "s.safetensors"
    with pytest.raises(ConfigError, match=r"has no column .domain., and there is no reference"):
        evaluate(tmp_path / "photo", None, by_mean(), domain="photo", settings=FEW, statistics=kept)
    with pytest.raises(
        ConfigError, match=r"photo has no column .domain., expected domains in all sets"
    ):
        evaluate([mixed, tmp_path / "photo"], "judge", by_mean(), domain="photo", settings=FEW)
    assert not kept.exists()


def never(_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("an image was measured")


def test_files_that_cannot_be_written_are_refused_before_measuring(
    tmp_path: Path, make_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_folder(tmp_path / "images", 6)
    (tmp_path / "file").write_text("")
    blind = Extractor(name="blind", width=2, classes=2, run=never)
    for statistics, kind, message in (
        (tmp_path / "s.npz", ConfigError, r"expected a name that ends in \.safetensors"),
        (tmp_path / "file" / "s.safetensors", OutputError, "file is no folder"),
    ):
        with pytest.raises(kind, match=message):
            evaluate(images, None, blind, statistics=statistics, settings=FEW)
    asked = ["evaluate", str(images), "--reference", "judge", "--device", "cpu"]
    assert main([*asked, "--out", str(tmp_path)]) == 2
    assert "it is a folder; expected a path that can be written" in capsys.readouterr().err


def test_options_without_effect_are_refused(tmp_path: Path, make_folder) -> None:
    images = make_folder(tmp_path / "images", 6)
    with pytest.raises(ConfigError, match="moments_only came without statistics"):
        evaluate(images, images, by_mean(), moments_only=True, settings=FEW)
    with pytest.raises(ConfigError, match="inception_weights came with the features of test"):
        evaluate(images, images, by_mean(), inception_weights=Path("w.pth"), settings=FEW)
    with pytest.raises(
        ConfigError, match=r"inception_weights is 'w\.pth' with features 'judge', expected none"
    ):
        load_extractor("judge", "cpu", weights=Path("w.pth"))
    with pytest.raises(
        ConfigError, match=r"labels is \['a'\] with features 'inception', expected none"
    ):
        load_extractor("inception", "cpu", labels=["a"])


def test_too_few_images_name_their_set_and_the_option(tmp_path: Path, make_folder) -> None:
    images, real = make_folder(tmp_path / "images", 6), make_folder(tmp_path / "real", 8, seed=1)
    for settings, message in (
        ({"neighbours": 6}, "neighbours is 6 and the folder .*images has 6 images"),
        (
            {"density_neighbours": 8},
            "density_neighbours is 8 and the reference .*real has 8 images",
        ),
        (
            {"prd_clusters": 20},
            "prd_clusters is 20 and the folder .*images has 6 images.*Lower `prd_clusters`",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(
                images,
                real,
                by_mean(),
                settings=Evaluation(resamples=0, **{"prd_clusters": 3} | settings),
            )


def test_intervals_end_where_the_metric_does() -> None:
    drawn = torch.ones(1, 1)
    assert entry("recall", 0.9, drawn, lambda _: (0.7, 1.2)) == {
        "value": 0.9,
        "low": 0.7,
        "high": 1.0,
    }
    assert entry("density", 0.1, drawn, lambda _: (-0.1, 1.4)) == {
        "value": 0.1,
        "low": 0.0,
        "high": 1.4,
    }
    assert entry("fid", 0.1, drawn, lambda _: (-0.1, 0.2))["low"] == 0.0
    assert entry("kid", 0.1, drawn, lambda _: (-0.1, 0.2))["low"] == -0.1


def test_the_report_says_what_its_numbers_depend_on(tmp_path: Path, make_folder) -> None:
    images, real = make_folder(tmp_path / "images", 6), make_folder(tmp_path / "real", 8, seed=1)
    report = evaluate(images, real, by_mean(), settings=FEW)
    assert set(report["resampled"]) == set(report["metrics"]) == set(RESAMPLED)
    assert [name for name, of in report["resampled"].items() if of == "reference"] == [
        "recall",
        "coverage",
    ]
    for name, found in report["metrics"].items():
        if found is not None:
            assert (found["low"] is None) == (report["resampled"][name] is None), name
    (warning,) = report["warnings"]
    assert (
        "6 images and the reference 8: precision, recall, density and coverage depend on both"
        in warning
    )
    assert evaluate(images, images, by_mean(), settings=FEW)["warnings"] == []


def test_the_table_names_sets_and_domain(
    tmp_path: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "evaluate",
        str(mixed),
        "--reference",
        str(mixed),
        "--domain",
        "sketch",
        "--neighbours",
        "2",
        "--density-neighbours",
        "2",
        "--prd-clusters",
        "2",
        "--resamples",
        "0",
        "--device",
        "cpu",
    ]
    assert main(asked) == 0
    title = f"{mixed} (sketch): 6 images, compared with {mixed} (sketch): 6 images of the reference"
    assert capsys.readouterr().out.startswith(title)
    assert main([*asked, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images_domain"] == "sketch"
    assert printed.err == ""
