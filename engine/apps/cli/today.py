"""Requests carried out by today's functions: no other module of the command line knows their arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.apps.cli.command import Call
from engine.request import ClassifierSource, Execution, Request
from engine.settings.alignment import Alignment
from engine.settings.inversion import InversionSettings
from engine.settings.methods import DDIS, Plain
from engine.settings.plain import from_plain, to_plain

if TYPE_CHECKING:
    from engine.classifiers import Classifier
    from engine.memory.plan import Plan as MemoryPlan
    from engine.models import Prior
    from engine.runners.baseline_job import BaselineJob
    from engine.runners.job import Job


def guidance_of(request: Request) -> Alignment | None:
    """The guidance of a method that draws with a prior, None for the plain prior."""
    return request.method.alignment if isinstance(request.method, DDIS) else None


def drawing(request: Request) -> DDIS | Plain:
    """The method, where it draws with a prior: the commands that ask offer no other."""
    assert isinstance(request.method, DDIS | Plain)
    return request.method


def load_models(request: Request, execution: Execution) -> "tuple[Classifier, Prior]":
    """The classifier and the prior of a request."""
    from engine.models import load_prior

    classifier = load_teacher(request.classifier, execution, request.dtype)
    prior = load_prior(
        request.prior.source,
        variant=request.prior.variant,
        revision=request.prior.revision,
        device=execution.device,
        dtype=request.dtype,
        tiny=request.prior.tiny_decoder,
    )
    return classifier, prior


def load_teacher(
    source: ClassifierSource, execution: Execution, dtype: str = "float32"
) -> "Classifier":
    """The classifier of a source."""
    from engine.classifiers import load_classifier

    return load_classifier(
        source.source,
        architecture=source.architecture,
        labels=source.labels,
        device=execution.device,
        dtype=dtype,
        statistics=source.statistics,
    )


def job_of(request: Request, execution: Execution, call: Call) -> "Job | BaselineJob":
    """The images of a request, with its models loaded and everything checked."""
    from engine.runners.baseline_job import prepare_baseline
    from engine.runners.job import prepare

    if isinstance(request.method, InversionSettings):
        classifier = load_teacher(request.classifier, execution, request.dtype)
        student = request.student
        return prepare_baseline(
            classifier,
            sized(request.method, classifier, call.explicit),
            request.classes,
            request.images_per_class,
            request.seed,
            None
            if student is None
            else load_teacher(replace(student, labels=classifier.labels), execution, request.dtype),
        )
    method = drawing(request)
    return prepare(
        *load_models(request, execution),
        request.classes,
        request.images_per_class,
        method.tokens,
        guidance_of(request),
        method.sampling,
        request.seed,
        execution.memory,
        request.runtime,
        execution.onnx_cache,
        attention=execution.attention,
        graphs=execution.graphs,
    )


def sized(
    method: InversionSettings, classifier: "Classifier", explicit: Mapping[str, Any]
) -> InversionSettings:
    """An inversion's settings for the size of the classifier's images, but for those that were given."""
    given = explicit.get("request", {}).get("method", {})
    values = to_plain(type(method).for_px(classifier.input_px)) | dict(given)
    return from_plain(type(method), values, "request.method")


def write_images(job: "Job | BaselineJob", out: Path, call: Call) -> int:
    """Write what is missing of a job's folder. Returns how many images that were."""
    from engine.runners.generate import write

    with call.task("images", None) as task:
        images = write(job, out, lambda step, of: task.advance(len(of) / step.total), task.expect)
        return sum(1 for _ in images)


def learning_callbacks(
    call: Call, learning: Any, labels: Sequence[str], classes: int
) -> dict[str, Any]:
    """Progress of the trial of words and of the epochs of some classes, as `learn_tokens` takes it."""
    from engine.apps.cli.command import Task
    from engine.runners.start_word import looked_at, trial_images

    reports = learning.epochs + learning.skip_passing + (learning.check_images > 0)
    trial, epochs = Task(call.events, "images that try words"), Task(call.events, "epochs")
    trial.expect(trial_images(learning) * len(looked_at(range(classes))))
    epochs.expect(reports * classes)
    return {
        "on_trial": lambda step, clean: trial.advance(len(clean) / step.total),
        "on_progress": lambda e: epochs.advance(
            detail=f"{labels[e.class_index]}: {e.accuracy:.0%} recognised"
        ),
    }


def plan_of(request: Request, execution: Execution, image_px: int | None) -> "MemoryPlan":
    """How the images of a request fit into the memory of an execution. The prior's weights are not loaded."""
    from engine.classifiers import load_classifier
    from engine.memory.plan import device_of, plan
    from engine.models import load_prior
    from engine.networks.frozen import named_dtype

    device = device_of(None, execution.memory, execution.device)
    dtype = named_dtype(request.dtype, device)
    prior = load_prior(
        request.prior.source,
        variant=request.prior.variant,
        revision=request.prior.revision,
        device="meta",
        dtype=dtype,
        tiny=request.prior.tiny_decoder,
    )
    classifier = load_classifier(
        request.classifier.source,
        architecture=request.classifier.architecture,
        labels=request.classifier.labels,
        device="meta" if request.classifier.source.startswith("arch:") else "cpu",
        dtype=dtype,
        statistics=request.classifier.statistics,
    )
    sampling = drawing(request).sampling
    return plan(
        prior,
        classifier,
        execution.memory,
        image_px,
        batch=sampling.batch,
        alignment=guidance_of(request),
        sampling=sampling,
        device=device,
        attention=execution.attention,
        graphs=execution.graphs,
    )


def write_folder(request: Request, classifier: "Classifier", out: Path, call: Call) -> None:
    """Write the images of a request, whose classifier is loaded, or what is missing of them."""
    from engine.runners.generate import generate

    method = drawing(request)
    images = generate(
        classifier,
        request.prior.source,
        images_per_class=request.images_per_class,
        tokens=method.tokens,
        sampling=method.sampling,
        seed=request.seed,
        alignment=guidance_of(request),
        out=out,
    )
    with call.task("images", request.images_per_class * len(classifier.labels)) as task:
        for _ in images:
            task.advance()
