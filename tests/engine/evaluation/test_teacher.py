"""What any classifier says of any labelled images."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from engine import Evaluation, Sampling, evaluate, generate
from engine.apps.cli import main
from engine.classifiers import Classifier
from engine.errors import ConfigError
from engine.evaluation.images import open_pool
from engine.evaluation.teacher import by_classifier
from engine.guidance.domain import judged, moment_distance
from engine.guidance.moments import recording_moments

LABELS = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
NO_INTERVALS = Evaluation(resamples=0)


@pytest.fixture
def teacher(classifier: Classifier) -> Classifier:
    return classifier


def read_whole(folder: Path) -> Tensor:
    return torch.cat(list(open_pool([folder]).batches(100)))


def test_any_folder_with_class_folders_is_judged(tmp_path: Path, make_folder, teacher) -> None:
    """In batches that do not divide it evenly, and from two folders as from one."""
    folder = make_folder(tmp_path / "real", 11)
    images = read_whole(folder)
    truth = torch.tensor([0] * 5 + [4] * 6)  # folders in the order of their names: dog, horse
    logits, distances = judged(teacher, images)
    with torch.no_grad(), recording_moments(teacher.statistics.taps) as taken:
        teacher.logits(images)
        whole = moment_distance(taken, teacher.statistics.stored).item()
    steps: list[int] = []
    columns, set_l_bn = by_classifier(open_pool([folder]), teacher, 4, steps.append)
    assert columns[0].tolist() == (logits.argmax(1) == truth).double().tolist()
    torch.testing.assert_close(columns[1].float(), logits.softmax(1)[torch.arange(11), truth])
    torch.testing.assert_close(columns[2].float(), distances)
    assert set_l_bn == pytest.approx(whole, rel=1e-4)
    assert set_l_bn != pytest.approx(distances.mean().item(), rel=1e-3)
    assert steps == [4, 4, 3]
    twice, same = by_classifier(open_pool([folder, folder]), teacher, 4)
    assert twice.shape == (3, 22)
    assert same == pytest.approx(whole, rel=1e-4)


def test_a_data_set_s_own_teacher_agrees_with_its_manifest(
    tmp_path: Path, teacher, tiny_prior
) -> None:
    made = generate(
        teacher,
        tiny_prior,
        ["dog", "horse"],
        3,
        method="plain",
        sampling=Sampling(steps=2),
        out=tmp_path / "set",
    )
    assert sum(1 for _ in made) == 6
    told = evaluate(
        tmp_path / "set", "judge", settings=Evaluation(resamples=0, neighbours=2, prd_clusters=3)
    )
    asked = evaluate(tmp_path / "set", classifier=teacher, settings=NO_INTERVALS)
    assert told["metrics"]["set_l_bn"] is None
    assert told["missing"] == {"set_l_bn": "needs `classifier`"}
    for name in ("teacher_accuracy", "teacher_confidence", "l_bn"):
        assert asked["metrics"][name]["value"] == pytest.approx(
            told["metrics"][name]["value"], rel=0.05
        )
    assert asked["metrics"]["set_l_bn"]["value"] > 0


def test_without_a_reference_the_teacher_alone_is_asked(
    tmp_path: Path, make_folder, teacher
) -> None:
    report = evaluate(make_folder(tmp_path / "real", 5), classifier=teacher, settings=NO_INTERVALS)
    assert (report["images"], report["features"], report["classifier"]) == (5, None, teacher.name)
    assert report["metrics"]["fid"] is None
    assert report["missing"]["fid"] == "needs `reference`"


def test_images_without_the_classifier_s_labels_are_refused(
    tmp_path: Path, make_folder, teacher
) -> None:
    folder = make_folder(tmp_path / "real", 4)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in folder.rglob("*.png"):
        file.rename(flat / file.name)
    bare = tmp_path / "bare.parquet"
    content = [{"image": {"bytes": file.read_bytes()}} for file in flat.iterdir()]
    pq.write_table(pa.Table.from_pylist(content), bare)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist([one | {"label": "cat"} for one in content]), other)
    for path, message in (
        (
            flat,
            "in folders or of labels 'flat', expected the classes of classifier 'CifarResNet': dog, elephant",
        ),
        (other, "in folders or of labels 'cat', expected the classes"),
        (bare, "expected the columns image .* and, where they are asked for, label"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(path, classifier=teacher, settings=NO_INTERVALS)


def test_the_command(
    tmp_path: Path, make_folder, classifier_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "real", 5)
    asked = ["evaluate", str(folder), "--device", "cpu", "--classifier"]
    assert main([*asked, str(classifier_folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{folder}: 5 images, without a reference" in shown
    assert "set_l_bn" in shown
    assert "teacher_accuracy" in shown
    assert "needs --reference" in shown
    file = str(classifier_folder / "model.safetensors")
    assert main([*asked, file, "--architecture", "resnet8", "--labels", *LABELS]) == 0
