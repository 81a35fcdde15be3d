"""Students learn from images while these are made: once, in bounded memory, and to the same bytes however it is cut."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import Comparison, Distillation, Sampling, distill, generate
from engine.apps.cli import main
from engine.classifiers import Classifier, load_classifier
from engine.datasets.parts import done_parts
from engine.datasets.store import FolderStore
from engine.downstream.stream import Stream, stream_of, stream_seed
from engine.errors import ConfigError, DamagedError, ModelError
from engine.events import Event, Events, Progressed
from engine.runners.share import PartMaker
from engine.settings.downstream import Streaming

IMAGES = 12
CPU = torch.device("cpu")


@pytest.fixture
def named_teacher(teacher_folder: Path) -> Classifier:
    """The teacher as runs name it."""
    return load_classifier(teacher_folder, device="cpu")


@pytest.fixture
def folder(tmp_path: Path, named_teacher: Classifier, small_prior_folder: Path) -> Path:
    """Two images of each class, drawn plainly in two steps."""
    for _ in generate(
        named_teacher,
        small_prior_folder,
        None,
        2,
        method="plain",
        sampling=Sampling(steps=2, batch=3),
        out=tmp_path / "ours",
    ):
        pass
    return tmp_path / "ours"


def stream(folder: Path, teacher: Classifier, place: Path, pool: int = 99) -> Stream:
    asked = Streaming(images_per_class=IMAGES // 3, pool=pool)
    return stream_of(teacher, folder, place, "embedded", asked)


def shown(images: Stream, batch: int = 4, updates: int = 6) -> list[Tensor]:
    rng = torch.Generator().manual_seed(2)
    return list(images.batches(batch, updates, CPU, rng))


def test_images_are_made_as_they_are_due(
    tmp_path: Path, folder: Path, named_teacher: Classifier
) -> None:
    images = stream(folder, named_teacher, tmp_path / "stream")
    store = FolderStore(tmp_path / "stream")
    assert len(images) == IMAGES
    batches = images.batches(4, 6, CPU, torch.Generator().manual_seed(2))
    assert not done_parts(store)
    next(batches)
    begun = len(done_parts(store))
    assert 0 < begun < images.maker.dataset.division.parts
    seen = [*batches]
    assert len(done_parts(store)) == images.maker.dataset.division.parts
    assert len(seen) == 5
    assert all(views.shape == (4, 3, 12, 12) for views in seen)


def test_a_part_whose_images_changed_on_the_disk_is_named(
    tmp_path: Path, folder: Path, named_teacher: Classifier
) -> None:
    shown(stream(folder, named_teacher, tmp_path / "stream"))
    tar = min((tmp_path / "stream").rglob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[900] ^= 1  # within the first image
    tar.write_bytes(content)
    with pytest.raises(DamagedError, match=f"{tar.name} has another checksum"):
        shown(stream(folder, named_teacher, tmp_path / "stream"))


def test_they_are_the_folders_request_with_another_seed(
    tmp_path: Path, folder: Path, named_teacher: Classifier, small_prior_folder: Path
) -> None:
    images = stream(folder, named_teacher, tmp_path / "stream")
    found = torch.cat([*images._parts()]).float() / 255
    request = images.maker.prepared.request
    assert request.seed == stream_seed(0)
    assert (request.images_per_class, request.method.name) == (4, "plain")
    wanted = torch.stack(
        [
            named_teacher.preprocess.cut((sample.image * 255).round()[None] / 255)[0]
            for sample in generate(
                named_teacher,
                small_prior_folder,
                None,
                4,
                method="plain",
                sampling=Sampling(steps=2, batch=3),
                seed=stream_seed(0),
            )
        ]
    )
    torch.testing.assert_close(found, wanted, atol=1 / 255, rtol=0)


def test_they_are_drawn_in_the_dtype_of_the_folder(
    tmp_path: Path, named_teacher: Classifier, teacher_folder: Path, small_prior_folder: Path
) -> None:
    guide = load_classifier(teacher_folder, device="cpu", dtype="bfloat16")
    few = Sampling(steps=1, batch=3)
    for _ in generate(
        guide, small_prior_folder, None, 1, method="plain", sampling=few, out=tmp_path / "ours"
    ):
        pass
    images = stream(tmp_path / "ours", named_teacher, tmp_path / "stream")
    assert images.maker.prepared.identities()["classifier"]["dtype"] == "torch.bfloat16"
    assert named_teacher.dtype == torch.float32


def test_the_next_student_and_a_run_that_was_cut_make_nothing_twice(
    tmp_path: Path, folder: Path, named_teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shown(stream(folder, named_teacher, tmp_path / "whole"))
    made: list[int] = []
    make = PartMaker.make

    def counted(self: PartMaker, part: int, events: Events) -> object:
        made.append(part)
        return make(self, part, events)

    monkeypatch.setattr(PartMaker, "make", counted)
    cut = stream(folder, named_teacher, tmp_path / "cut").batches(
        4, 6, CPU, torch.Generator().manual_seed(2)
    )
    next(cut)
    cut.close()
    again = shown(stream(folder, named_teacher, tmp_path / "cut"))
    assert sorted(made) == [*range(len(made))]
    assert all(one.equal(other) for one, other in zip(again, whole, strict=True))
    images = stream(folder, named_teacher, tmp_path / "cut")
    assert all(one.equal(other) for one, other in zip(shown(images), whole, strict=True))
    assert len(made) == images.maker.dataset.division.parts


@pytest.mark.parametrize("pool", [2, 5])  # less than a part, and more
def test_a_student_draws_from_the_latest(
    tmp_path: Path, folder: Path, named_teacher: Classifier, pool: int
) -> None:
    images = stream(folder, named_teacher, tmp_path / "stream", pool)
    latest = torch.cat([*images._parts()])[-pool:]
    last = (shown(images, batch=pool)[-1] * 255).round().to(torch.uint8)
    assert {tuple(image.flatten().tolist()) for image in last} == {
        tuple(image.flatten().tolist()) for image in latest
    }


def test_a_comparison_has_it_as_a_row_and_resumes(
    tmp_path: Path, folder: Path, named_teacher: Classifier
) -> None:
    seen: list[Event] = []
    asked = {
        "out": tmp_path / "out",
        "distillation": Distillation(updates=6, batch=4),
        "streaming": Streaming(images_per_class=4),
    }
    few = Comparison(seeds=2, noise=False)
    report = distill(folder, named_teacher, "resnet8", **asked, comparison=few)
    assert [*report["rows"]] == ["folder", "stream"]
    assert report["rows"]["stream"]["images"] == IMAGES
    assert len(report["rows"]["stream"]["agreement"]["values"]) == 2
    more = report["rows"]["stream"]["difference_to_folder"]["kl"]
    less = report["rows"]["folder"]["difference_to_stream"]["kl"]
    assert less["mean"] == pytest.approx(-more["mean"])
    again = distill(
        folder, named_teacher, "resnet8", **asked, comparison=few, events=Events(seen.append)
    )
    assert again == report
    assert not [event for event in seen if isinstance(event, Progressed) and event.units < 1]


def test_the_command_has_it(
    tmp_path: Path,
    folder: Path,
    teacher_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["distill", str(folder), "--classifier", str(teacher_folder), "--device", "cpu"]
    words += ["--student", "resnet8", "--seeds", "1", "--no-plain", "--no-noise"]
    words += ["--out", str(tmp_path / "out"), "--stream", "2", "--json"]
    assert main(words) == 2
    assert "--stream is 2 and --updates is 0, expected a number of updates" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--updates", "3", "--batch", "4", "--pool", "4"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["stream"]["images"] == 6


def test_what_makes_no_stream_is_refused(
    tmp_path: Path, folder: Path, teacher: Classifier, make_set
) -> None:
    with pytest.raises(ConfigError, match="soft_labels is 'manifest', expected 'online'"):
        distill(
            folder,
            teacher,
            out=tmp_path / "out",
            distillation=Distillation(updates=2, soft_labels="manifest", mix="none"),
            streaming=Streaming(images_per_class=2),
        )
    with pytest.raises(ConfigError, match="pool is 4 and `batch` is 32"):
        distill(
            folder,
            teacher,
            out=tmp_path / "out",
            distillation=Distillation(updates=2),
            streaming=Streaming(images_per_class=2, pool=4),
        )
    with pytest.raises(ConfigError, match=r"expected (that of one run|a whole request)"):
        distill(
            make_set(tmp_path / "bare", 2),
            teacher,
            out=tmp_path / "out",
            distillation=Distillation(updates=2),
            streaming=Streaming(images_per_class=2),
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="pool is 0"):
        Streaming(pool=0)
    other = load_classifier(
        torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3)
        ),
        labels=teacher.labels,
        preprocess=teacher.preprocess,
        device="cpu",
    )
    with pytest.raises(ModelError, match="the models are not those of the record"):
        stream(folder, other, tmp_path / "stream")
    with pytest.raises(ConfigError, match=r"expected (that of one run|a whole request)"):
        stream(make_set(tmp_path / "alien", 2), teacher, tmp_path / "stream")


def test_a_student_of_other_classes_is_refused_before_the_stream_makes_an_image(
    tmp_path: Path, folder: Path, named_teacher: Classifier
) -> None:
    student = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4)
    )
    with pytest.raises(ModelError, match="the student gives 4 scores, expected 3"):
        distill(
            folder,
            named_teacher,
            student,
            out=tmp_path / "out",
            distillation=Distillation(updates=2, batch=2),
            streaming=Streaming(images_per_class=2),
        )
    assert not (tmp_path / "out").exists()


def test_a_stream_shares_no_seed_with_folders_that_a_person_makes() -> None:
    seeds = {stream_seed(seed) for seed in range(1000)}
    assert len(seeds) == 1000
    assert min(seeds) > 1000
