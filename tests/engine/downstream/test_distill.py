"""Students are kept and load again; a comparison that is cut goes on, and its report is the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import Alignment, Comparison, Distillation, Sampling, distill, generate, load_classifier
from engine.classifiers.outputs import logits_of
from engine.datasets.run_record import read_run
from engine.downstream import students
from engine.downstream.comparison import REPORT
from engine.downstream.students import keep_student
from engine.errors import ConfigError, ModelError, OutputError
from engine.events import Event, Events, Noted, Progressed

FEW = {"distillation": Distillation(epochs=2, batch=8), "comparison": Comparison(seeds=2)}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key != "seconds"}
    return value


@pytest.mark.parametrize(
    ("source", "student"),
    [
        ("arch:resnet50", "resnet18"),
        ("arch:resnet18", "resnet18/2"),
        ("embedded:photo", "resnet18/4"),
    ],
)
def test_the_student_of_large_images_is_smaller_than_its_teacher(source: str, student: str) -> None:
    assert students.student_name(None, load_classifier(source)) == student


@pytest.mark.filterwarnings("ignore:the .* BatchNorm layers")  # of a new network
@pytest.mark.parametrize("name", ["resnet8/4", "resnet18/8", "resnet50/4", "vgg8/8"])
def test_a_student_of_divided_widths_loads_again(name: str, tmp_path: Path, teacher) -> None:
    student = students.new_student(name, teacher, 0).eval()
    keep_student(tmp_path, student, name, teacher)
    again = load_classifier(tmp_path).network
    assert students.parameters(again) == students.parameters(student)
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(
        logits_of(again, images), logits_of(student, images), atol=2e-2
    )  # kept in float16


@pytest.mark.parametrize("name", ["resnet18/3", "resnet18/", "resnet/2", "resnet18/2/2"])
def test_widths_are_divided_by_few_numbers(name: str, teacher) -> None:
    with pytest.raises(ConfigError, match="with /2, /4, /8 behind"):
        students.student_name(name, teacher)


@pytest.mark.parametrize(
    ("student", "parameters"),
    [
        ("resnet8", 75_095 - 4 * 65),
        pytest.param("vgg8", 3_909_312 + 2 * 1_472 + 3 * 513, marks=pytest.mark.slow),
    ],
)
def test_every_student_is_kept_and_loads_again(
    student: str, parameters: int, tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    test = make_parquet(tmp_path / "test.parquet", 5)
    report = distill(
        make_set(tmp_path / "ours", 4),
        teacher,
        student,
        out=tmp_path / "out",
        test=test,
        domain="near",
        original=test,
        plain=make_set(tmp_path / "plain", 4, seed=4),
        **FEW,
    )
    assert list(report["rows"]) == ["original", "folder", "plain", "noise"]
    assert {row["images"] for row in report["rows"].values()} == {12}
    assert report == json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["teacher"]["accuracy"] > 0.9
    assert report["network"]["parameters"] == parameters
    for name, row in report["rows"].items():
        accuracy = row["accuracy"]
        assert accuracy["mean"] == pytest.approx(sum(accuracy["values"]) / 2)
        assert accuracy["spread"] == pytest.approx(
            torch.tensor(accuracy["values"]).std().item(), abs=1e-6
        )
        for seed in (0, 1):
            student = load_classifier(tmp_path / "out" / name / f"seed-{seed}", device="cpu")
            assert student.labels == teacher.labels
            facts = json.loads(
                (tmp_path / "out" / name / f"seed-{seed}" / "config.json").read_text()
            )
            assert facts["accuracy"] == accuracy["values"][seed]
            assert facts["kl"] == row["kl"]["values"][seed] > 0
        if name == "folder":
            assert "difference_to_folder" not in row
            continue
        less = row["difference_to_folder"]
        gap = accuracy["mean"] - report["rows"]["folder"]["accuracy"]["mean"]
        assert less["accuracy"]["mean"] == pytest.approx(gap, abs=1e-6)
        assert less["accuracy"]["low"] <= gap <= less["accuracy"]["high"]
        assert less.keys() == {"accuracy", "agreement", "kl"}
    assert "2 seeds: the spread says little, expected 3 or more." in report["warnings"]
    measured = "15 measured images: one of them is 6.7 points, expected 50 or more."
    assert measured in report["warnings"]
    larger = report["network"]["parameters"], report["teacher"]["parameters"]
    assert (
        f"the student has {larger[0]:,} parameters and its teacher {larger[1]:,}: expected a smaller network, or "
        "the same."
    ) in report["warnings"]


def test_warnings_come_before_the_first_student_learns(tmp_path: Path, teacher, make_set) -> None:
    seen: list[Event] = []
    other = {"classifier": {"name": "embedded:art", "fingerprint": "0" * 16}}
    report = distill(
        make_set(tmp_path / "ours", 4, made_with=other),
        teacher,
        "resnet8",
        out=tmp_path / "out",
        distillation=Distillation(epochs=1),
        comparison=Comparison(seeds=1),
        events=Events(seen.append),
    )
    first = next(place for place, event in enumerate(seen) if isinstance(event, Progressed))
    notes = [event.text for event in seen[:first] if isinstance(event, Noted)]
    assert notes == [f"warning: {text}" for text in report["warnings"]]
    assert not any(isinstance(event, Noted) for event in seen[first:])
    for words in (
        "was made for another classifier",
        "1 seed: the spread says little",
        "3 measured images: one of them is",
        "times its teacher's compute, expected at most the teacher's: choose a smaller student",
    ):
        assert sum(words in note for note in notes) == 1, words


def test_a_cut_comparison_goes_on_to_the_same_report(tmp_path: Path, teacher, make_set) -> None:
    folder = make_set(tmp_path / "ours", 4)
    whole = distill(folder, teacher, "resnet8", out=tmp_path / "whole", **FEW)

    def cut(event: Event) -> None:
        if isinstance(event, Progressed) and event.detail == "folder, seed 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(folder, teacher, "resnet8", out=tmp_path / "cut", events=Events(cut), **FEW)
    assert not (tmp_path / "cut" / REPORT).exists()
    kept = (tmp_path / "cut/folder/seed-0/model.safetensors").stat().st_mtime_ns
    resumed = distill(folder, teacher, "resnet8", out=tmp_path / "cut", **FEW)
    assert without_times(resumed) == without_times(whole)
    assert (tmp_path / "cut/folder/seed-0/model.safetensors").stat().st_mtime_ns == kept
    more = distill(
        folder,
        teacher,
        "resnet8",
        out=tmp_path / "cut",
        distillation=FEW["distillation"],
        comparison=Comparison(seeds=3),
    )
    assert (
        more["rows"]["folder"]["agreement"]["values"][:2]
        == whole["rows"]["folder"]["agreement"]["values"]
    )
    with pytest.raises(
        OutputError, match=r"begun with other settings: distillation.epochs is 2 there and 1 here"
    ):
        distill(
            folder,
            teacher,
            "resnet8",
            out=tmp_path / "cut",
            distillation=Distillation(epochs=1, batch=8),
        )


def test_rows_of_their_own_sizes_learn_for_as_many_updates(
    tmp_path: Path, teacher, make_set
) -> None:
    folder, other = make_set(tmp_path / "ours", 4), make_set(tmp_path / "other", 9, seed=5)
    own = Comparison(seeds=1, noise=False, equal_sizes=False)
    with pytest.raises(ConfigError, match="equal_sizes is False and `updates` is 0, expected a"):
        distill(folder, teacher, "resnet8", out=tmp_path / "out", comparison=own)
    report = distill(
        folder,
        teacher,
        "resnet8",
        out=tmp_path / "out",
        rows={"other": other},
        test=make_set(tmp_path / "test", 3, seed=6),
        distillation=Distillation(updates=3, batch=8),
        comparison=own,
    )
    assert {name: row["images"] for name, row in report["rows"].items()} == {
        "other": 27,
        "folder": 12,
    }


def test_any_module_may_be_a_student(tmp_path: Path, teacher, make_set) -> None:
    student = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3)
    )
    folder = make_set(tmp_path / "ours", 4)
    first = student[0].weight.clone()
    report = distill(folder, teacher, student, out=tmp_path / "out", **FEW)
    assert student[0].weight.equal(first)  # each student is a copy
    assert report["network"]["flops"] == 2 * (4 * 25 * 27 + 100 * 3)
    assert not any("parameters" in told for told in report["warnings"])
    assert (tmp_path / "out/noise/seed-1/model.safetensors").exists()
    with pytest.raises(ModelError, match="the student gives 4 scores, expected 3"):
        distill(
            folder,
            teacher,
            nn.Sequential(nn.Flatten(), nn.Linear(432, 4)),
            out=tmp_path / "o",
            plain="generate",
            **FEW,
        )
    assert not (tmp_path / "o").exists()  # nothing was drawn


def test_a_students_weights_are_written_whole(tmp_path: Path, teacher, monkeypatch) -> None:
    """A write that is cut leaves the file that was there, and nothing beside it."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    keep_student(tmp_path, network, None, teacher)
    kept = (tmp_path / "model.safetensors").read_bytes()

    def cut(module: nn.Module, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(students, "save_model", cut)
    with pytest.raises(KeyboardInterrupt):
        keep_student(tmp_path, network, None, teacher)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def test_mistakes_are_one_sentence(tmp_path: Path, teacher, make_set) -> None:
    folder = make_set(tmp_path / "ours", 4)
    with pytest.raises(
        ConfigError, match=r"student is 'vgg', expected one of resnet8, .*pass an nn.Module"
    ):
        distill(folder, teacher, "vgg", out=tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds other files .*expected a new or empty folder"):
        distill(folder, teacher, out=folder)
    with pytest.raises(
        ConfigError, match="domain 'photo' was given without original or test images"
    ):
        distill(folder, teacher, out=tmp_path / "out", domain="photo")
    with pytest.raises(ConfigError, match=r"domain 'photo' .* in a parquet file, expected one"):
        distill(folder, teacher, out=tmp_path / "out", domain="photo", test=folder / "images")
    assert not (tmp_path / "out").exists()


def test_the_plain_images_are_drawn_as_the_folder_was(tmp_path: Path, teacher, small_prior) -> None:
    """The folder's prior, seed and sampling, without its guidance; kept, and not drawn again."""
    sampling = Sampling(steps=2, cfg=2.0, batch=6)
    for _ in generate(
        teacher,
        small_prior,
        None,
        2,
        alignment=Alignment(scale=3.0),
        sampling=sampling,
        seed=4,
        out=tmp_path / "ours",
    ):
        pass
    report = distill(
        tmp_path / "ours",
        teacher,
        "resnet8",
        out=tmp_path / "out",
        plain="generate",
        prior=small_prior,
        **FEW,
    )
    assert list(report["rows"]) == ["folder", "plain", "noise"]
    drawn, made = (
        read_run(folder).facts for folder in (tmp_path / "out" / "plain-images", tmp_path / "ours")
    )
    assert (drawn["method"].pop("name"), made["method"].pop("name")) == ("plain", "ddis")
    assert made["method"].pop("alignment")
    assert drawn == made
    assert report["sets"]["plain"] != report["sets"]["folder"]
    with pytest.raises(
        ConfigError, match=r"was drawn by the prior .* expected it and not .*`prior`"
    ):
        distill(tmp_path / "ours", teacher, out=tmp_path / "other", plain="generate")


def test_a_comparison_that_an_earlier_version_began_goes_on(
    tmp_path: Path, teacher, make_set
) -> None:
    """Its request lacks settings that came since, and its runs a measure."""
    folder, out = make_set(tmp_path / "ours", 4), tmp_path / "out"
    few = {**FEW, "distillation": replace(FEW["distillation"], mix="none")}
    report = distill(folder, teacher, "resnet8", out=out, **few)
    request = json.loads((out / "request.json").read_text())
    for name in ("updates", "mix"):
        del request["distillation"][name]
    (out / "request.json").write_text(json.dumps(request))
    for file in out.glob("*/seed-0/measures.json"):
        measures = json.loads(file.read_text())
        del measures["kl"]
        file.write_text(json.dumps(measures))
    again = distill(folder, teacher, "resnet8", out=out, **few)
    assert again["rows"]["folder"]["accuracy"] == report["rows"]["folder"]["accuracy"]
    assert again["rows"]["folder"]["kl"]["values"][0] is None
    other = replace(FEW["distillation"], mix="mixup")
    with pytest.raises(OutputError, match=r"distillation\.mix is \"none\" there"):
        distill(folder, teacher, "resnet8", out=out, **{**FEW, "distillation": other})


def test_a_comparison_goes_on_wherever_the_same_classifier_lies(
    tmp_path: Path, teacher, make_set, monkeypatch
) -> None:
    """Also where paths begin with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    make_set(tmp_path / "ours", 4)
    report = distill("~/ours", teacher, "resnet8", out=tmp_path / "out", **FEW)
    moved = replace(teacher, name="elsewhere")
    again = distill("~/ours", moved, "resnet8", out="~/out", **FEW)
    assert again["rows"] == report["rows"]
