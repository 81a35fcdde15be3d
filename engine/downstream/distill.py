"""Distillation: a smaller network learns from the teacher on synthetic images, and on those it is compared with."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from engine.classifiers import Classifier
from engine.downstream.comparison import compare, write_report
from engine.downstream.inputs import check_streaming, check_updates, prepare, teacher_for
from engine.downstream.rows import Row
from engine.downstream.sources import STREAM, STREAM_IMAGES, Inputs
from engine.downstream.stream import check_streamable, stream_of
from engine.downstream.students import identity, keep_student, new_student, size_of, student_name
from engine.downstream.training import reading, teach
from engine.events import SILENT, Advance, Events
from engine.priors import Prior
from engine.settings.downstream import Comparison, Distillation, Streaming


def distill(
    folder: str | Path,
    classifier: str | Path | nn.Module | Classifier,
    student: str | nn.Module | None = None,
    *,
    out: str | Path,
    original: str | Path | None = None,
    plain: str | Path | None = None,
    prior: str | Path | Prior = "embedded",
    test: str | Path | None = None,
    domain: str | None = None,
    rows: Mapping[str, str | Path] | None = None,
    distillation: Distillation = Distillation(),
    streaming: Streaming = Streaming(),
    comparison: Comparison = Comparison(),
    events: Events = SILENT,
) -> dict[str, Any]:
    """Teach students on the images of `folder` and, in equal numbers or as `comparison` says, on other sets.

    Args:
        folder: a finished data set of `generate`.
        classifier: the teacher that the folder was generated for, as `generate` takes it.
        student: an architecture, such as 'resnet14', or a module, of which each student is a copy; without one, a
            network for the teacher's input size.
        out: keeps every student, and report.json; resumed if it was interrupted.
        original: row of images of the training set: a folder with one folder for each class, or a parquet file.
        plain: row of the plain prior: a folder of its images, or 'generate' to draw one with `prior` and the folder's
            own settings.
        prior: what draws plain images, as `generate` takes it.
        test: real images that accuracy is measured on, as `original`; without them students are compared by their
            agreement with the teacher on a held-out part of the folder.
        domain: only these rows of parquet files.
        rows: further sets as `original`, by the names of their rows.
        distillation: how students are taught.
        streaming: a row of images that are made while a student learns, by the folder's settings and another seed.
        comparison: seeds, sizes, and what is held out.
        events: where progress is reported.

    Returns:
        The report, as JSON values: "rows" by name, each with mean, spread and values of what its students reached, the
        "teacher", the student as "network", and "warnings".

    Raises:
        EngineError: one of its children for each mistake that is the caller's.
    """
    check_updates(comparison, distillation)
    check_streaming(streaming, distillation)
    out, inputs = Path(out).expanduser(), Inputs.of(folder, original, test, domain, rows)
    if streaming.images_per_class:
        check_streamable(inputs.folder)
    stored = distillation.soft_labels == "manifest"
    teacher = teacher_for(classifier, out, events)
    name = student_name(student, teacher)
    chosen = student if isinstance(student, nn.Module) else name
    size = size_of(new_student(chosen, teacher, 0), teacher.preprocess)
    ready = prepare(teacher, inputs, plain, prior, out, comparison, stored, events)
    sets = ready.sets
    if streaming.images_per_class:
        stream = stream_of(teacher, inputs.folder, out / STREAM_IMAGES, prior, streaming)
        sets = replace(sets, rows={**sets.rows, STREAM: stream})

    def run(images: Row, seed: int, place: Path, advance: Advance) -> dict[str, Any]:
        network = new_student(chosen, teacher, seed)
        teach(network, teacher.preprocess, ready.ask, images, distillation, seed, advance)
        measures = ready.measured(reading(network, teacher.preprocess), teacher.device, place)
        architecture = name if chosen is name else None
        keep_student(place, network, architecture, teacher, seed=seed, **measures)
        return measures

    request = {
        "classifier": teacher.describe(),
        "student": identity(chosen),
        "distillation": asdict(distillation),
    }
    teachers = size_of(teacher.network, teacher.preprocess)
    report = compare(
        "distill", out, sets, comparison.seeds, request, run, events, _warn_of_size(size, teachers)
    )
    report |= {
        "folder": str(inputs.folder),
        "teacher": ready.measured_teacher() | teachers,
        "network": size,
    }
    write_report(out, report)
    return report


def _warn_of_size(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    """A sentence where the student has more parameters than its teacher, and one where it takes more compute."""
    said = []
    if student["parameters"] > teacher["parameters"]:
        said.append(
            f"the student has {student['parameters']:,} parameters and its teacher {teacher['parameters']:,}: expected "
            "a smaller network, or the same."
        )
    if student["flops"] > teacher["flops"]:
        said.append(
            f"the student takes {student['flops'] / teacher['flops']:.1f} times its teacher's compute, expected at "
            "most the teacher's: choose a smaller student, such as 'resnet18/4' for images above 64 px."
        )
    return said
