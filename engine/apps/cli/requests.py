"""What commands have in common that carry a request out: its models, its images, its plan."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from engine.apps.cli.command import Call
from engine.request import ClassifierSource, Execution, Request
from engine.settings.inversion import InversionSettings
from engine.settings.methods import DrawingSettings
from engine.settings.plain import from_plain, to_plain

if TYPE_CHECKING:
    from engine.classifiers import Classifier
    from engine.memory.plan import Plan as MemoryPlan
    from engine.priors import Prior
    from engine.runners.base import PartsRunner, Runner
    from engine.types import Sample

Sized = TypeVar("Sized", bound=InversionSettings)
FLAG_OF = {
    "classifier": "request.classifier.source",
    "prior": "request.prior.source",
    "student": "request.student.source",
    "tokens": "request.method.tokens",
}
"""The path of the flag that names another model than a record does."""


def drawing(request: Request) -> DrawingSettings:
    """The method, where it draws with a prior: the commands that ask offer no other."""
    assert isinstance(request.method, DrawingSettings)
    return request.method


def load_models(request: Request, execution: Execution) -> "tuple[Classifier, Prior]":
    """The classifier and the prior of a request."""
    from engine.memory.apply import settle
    from engine.methods.models import Models

    models = Models(request, execution)
    settle(None, models.prior)
    return models.classifier, models.prior


def load_classifier_of(source: ClassifierSource, execution: Execution) -> "Classifier":
    """The classifier of a source, in float32."""
    from engine.methods.models import Models

    return Models(Request(classifier=source), execution).classifier


def images_of(
    request: Request,
    execution: Execution,
    out: Path,
    call: Call,
    classifier: "Classifier | None" = None,
) -> "Iterator[Sample]":
    """The images of a request that its folder lacks, written as they are read. Everything is checked now.

    classifier: that of the request, if it is loaded already.
    """
    runner, request = _runner(request, execution, out, call, classifier)
    return runner.run(request)


def parts_of(
    request: Request, execution: Execution, out: str, call: Call
) -> Iterator[tuple[int, int]]:
    """Number and images of each part of a request that a data set in parts lacks, written as they are read.

    Everything is checked now.
    """
    runner, request = _runner(request, execution, out, call, None)
    parts: Iterator[tuple[int, int]] = cast("PartsRunner", runner).parts(request)
    return parts


def _runner(
    request: Request,
    execution: Execution,
    out: Path | str,
    call: Call,
    classifier: "Classifier | None",
) -> "tuple[Runner, Request]":
    """Who carries a request out, and the request with an inversion's settings for the size of its images."""
    from engine.methods.models import Given, Models
    from engine.runners.registry import runner_for

    if isinstance(request.method, InversionSettings):
        classifier = classifier or Models(request, execution).classifier
        request = replace(request, method=sized(request.method, classifier, call.explicit))
    given = Given(classifier=classifier)
    return runner_for(execution, out, call.events, given, models_on_record(call)), request


def models_on_record(call: Call) -> dict[str, Any]:
    """The identities that models must have, of a run.json: of those that no flag names anew."""
    return {
        name: identity
        for name, identity in (call.record or {}).get("models", {}).items()
        if FLAG_OF.get(name) not in call.given
    }


def sized(method: Sized, classifier: "Classifier", explicit: Mapping[str, Any]) -> Sized:
    """An inversion's settings for the size of the classifier's images, but for those that were given."""
    given = explicit.get("request", {}).get("method", {})
    values = to_plain(type(method).for_px(classifier.input_px)) | dict(given)
    return from_plain(type(method), values, "request.method")


def write_folder(
    request: Request, execution: Execution, classifier: "Classifier", out: Path, call: Call
) -> None:
    """Write the images of a request, or what is missing of them: of all classes of its classifier.

    classifier: loaded in float32; a request in another precision loads its own.
    """
    from engine.methods.models import NOTHING, Given
    from engine.runners.registry import runner_for

    request = replace(request, classes=None, student=None)
    given = Given(classifier=classifier) if request.dtype == "float32" else NOTHING
    for _ in runner_for(execution, out, call.events, given).run(request):
        pass


def plan_of(
    request: Request, execution: Execution, image_px: int | None, *, learn_tokens: bool
) -> "MemoryPlan":
    """How the images of a request fit into the memory of an execution. The prior's weights are not loaded.

    A batch has no more images than the request asks for.

    learn_tokens: whether to plan learning tokens as well, whose batches do not depend on the number of images.
    """
    from engine.memory.plan import plan
    from engine.memory.subject import device_of
    from engine.methods.models import named_classifier, named_prior
    from engine.networks.frozen import named_dtype

    device = device_of(None, execution.memory, execution.device)
    dtype = named_dtype(request.dtype, device)
    prior = named_prior(request.prior, device="meta", dtype=dtype)
    is_hollow = request.classifier.source.startswith("arch:")
    classifier = named_classifier(
        request.classifier, device="meta" if is_hollow else "cpu", dtype=dtype
    )
    method = drawing(request)
    batch = method.sampling.batch
    if not learn_tokens:
        classes = classifier.labels if request.classes is None else request.classes
        batch = min(batch, request.images_per_class * len(classes))
    return plan(
        prior,
        classifier,
        execution.memory,
        image_px,
        batch=batch,
        alignment=method.alignment,
        sampling=method.sampling,
        device=device,
        attention=execution.attention,
        tokens=learn_tokens,
        graphs=execution.graphs,
    )
