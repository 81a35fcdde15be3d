"""From the arguments of `generate` and its kin to a request, and to the objects that a request cannot hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import DiffusionPipeline
from torch import nn

from engine.classifiers import Classifier, load_classifier
from engine.errors import ConfigError, check_type
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.methods.base import Prepared
from engine.methods.models import Given, Models
from engine.methods.registry import prepare, settings_of
from engine.priors import Prior
from engine.request import OBJECT, ClassifierSource, Execution, Method, PriorSource, Request
from engine.settings import AUTO_ATTENTION, Alignment, Sampling
from engine.settings.cluster import Cluster
from engine.tokens.table import TokenTable

AnyClassifier = str | Path | nn.Module | Classifier
"""A source as `load_classifier` takes it, or what that gave."""
AnyPrior: TypeAlias = str | Path | Prior | DiffusionPipeline
"""A source as `load_prior` takes it, or what that gave."""
AnyTokens = str | Path | TokenTable


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A request, how to carry it out, and the objects that were handed over."""

    request: Request
    execution: Execution
    given: Given

    @property
    def models(self) -> Models:
        """The models of the request, not loaded yet."""
        return Models(self.request, self.execution, self.given)

    def prepare(self) -> Prepared:
        """The request made ready by its method: models loaded, everything checked."""
        return prepare(self.request, self.models, self.execution)


def asked(
    classifier: AnyClassifier | Request,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    *,
    seed: int = 0,
    method: str | Method = "ddis",
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    tokens: AnyTokens | None = None,
    student: AnyClassifier | None = None,
    runtime: str = "torch",
    device: str | None = None,
    memory: str | int | Plan = AUTO,
    attention: str = AUTO_ATTENTION,
    onnx_cache: str | Path | None = None,
    graphs: bool = True,
    runner: str = "local",
    cluster: Cluster = Cluster(),
) -> Asked:
    """What the arguments of `generate` ask for. Raises ConfigError for those that do not go together."""
    network = "a source such as 'embedded:photo', an nn.Module or a Classifier"
    check_type("classifier", classifier, AnyClassifier | Request, network)
    check_type("prior", prior, AnyPrior, "a source such as 'embedded', a Prior or a pipeline")
    check_type("classes", classes, Iterable | None, "a list of class names")
    check_type("tokens", tokens, AnyTokens | None, "the path of a token file, or a TokenTable")
    check_type("student", student, AnyClassifier | None, network)
    check_type("cluster", cluster, Cluster, "a Cluster, such as Cluster(ray='local')")
    plan = memory if isinstance(memory, Plan) else None
    execution = Execution(
        memory=AUTO if isinstance(memory, Plan) else str(memory),
        device=None if device is None else str(device),
        attention=attention,  # type: ignore[arg-type]
        onnx_cache=None if onnx_cache is None else str(onnx_cache),
        graphs=graphs,
        runner=str(runner),
        cluster=cluster,
    )
    if isinstance(classifier, Request):
        _check_alone(
            prior="embedded" if object_of(prior) else prior,
            classes=classes,
            images_per_class=images_per_class,
            seed=seed,
            method=method,
            alignment=alignment,
            sampling=sampling,
            tokens=tokens,
            student=student,
            runtime=runtime,
        )
        return Asked(
            request=classifier,
            execution=execution,
            given=Given(prior=object_of(prior), plan=plan),
        )
    found = classifier

    def loaded() -> Classifier:
        nonlocal found
        found = found if isinstance(found, Classifier) else load_classifier(found)
        return found

    settings = settings_of(method, loaded)
    request = Request(
        classifier=ClassifierSource(source=source_of(classifier)),
        prior=PriorSource(source=source_of(prior)),
        method=_completed(settings, isinstance(method, str), alignment, sampling, tokens),
        student=None if student is None else ClassifierSource(source=source_of(student)),
        classes=(classes,)
        if isinstance(classes, str)
        else None
        if classes is None
        else tuple(classes),
        images_per_class=images_per_class,
        seed=seed,
        runtime=runtime,  # type: ignore[arg-type]
    )
    given = Given(
        classifier=object_of(found),
        prior=object_of(prior),
        student=object_of(student),
        tokens=object_of(tokens),
        plan=plan,
    )
    return Asked(request=request, execution=execution, given=given)


def source_of(model: AnyClassifier | AnyPrior | AnyTokens) -> str:
    """How a request names a model: by its source, or, of an object, by a name under which nobody can load it."""
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, TokenTable):
        return f"{OBJECT}{model.fingerprint}"
    if isinstance(model, nn.Module | DiffusionPipeline):
        return f"{OBJECT}{type(model).__name__}"
    return f"{OBJECT}{model.name}"


def object_of(model: object) -> Any:
    """A model that was handed over; None for one that is named by its source."""
    return None if isinstance(model, str | Path) else model


def _completed(
    settings: Method,
    by_name: bool,
    alignment: Alignment | None,
    sampling: Sampling,
    tokens: AnyTokens | None,
) -> Method:
    """A method's settings with those that are given as arguments of their own."""
    if alignment is None:
        raise ConfigError(
            "alignment is None, expected settings of guidance: give some, or choose method 'plain' for the prior alone."
        )
    given: dict[str, Any] = {}
    if alignment != Alignment():
        given["alignment"] = alignment
    if sampling != Sampling():
        given["sampling"] = sampling
    if tokens is not None:
        given["tokens"] = source_of(tokens)
    own = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    for name in given:
        if name not in own:
            raise ConfigError(
                f"{name} is given with method {settings.name!r}, expected none: that method has no such setting. Leave "
                f"it out, or choose a method that has it. The settings of {settings.name!r} are {', '.join(own)}."
            )
        if not by_name and (name != "tokens" or own[name] is not None):
            raise ConfigError(
                f"{name} is given together with the settings of method {settings.name!r}, expected it in one place: "
                "put it into the settings."
            )
    return replace(settings, **given)


def _check_alone(**given: Any) -> None:
    """Raise ConfigError for an argument that says what a request says, given together with one."""
    parameters = signature(asked).parameters
    for name, value in given.items():
        if value != parameters[name].default:
            raise ConfigError(
                f"{name} is given together with a request, expected it in one place: change the request, with "
                f"dataclasses.replace(request, {name}=...)."
            )
