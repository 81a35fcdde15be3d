"""The models that a request names, each loaded when a method first asks for it, or handed over as an object."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from engine.classifiers import Classifier, load_classifier
from engine.errors import ConfigError
from engine.memory.plan import Plan
from engine.networks.frozen import default_device
from engine.priors import Prior, load_prior
from engine.request import OBJECT, ClassifierSource, Execution, PriorSource, Request
from engine.settings.inversion import InversionSettings
from engine.tokens.files import load_tokens
from engine.tokens.table import TokenTable, check_fit


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Objects that take the place of what a request names, and of a plan for its execution."""

    classifier: Classifier | nn.Module | None = None
    prior: Prior | DiffusionPipeline | None = None
    student: Classifier | nn.Module | None = None
    tokens: TokenTable | None = None
    plan: Plan | None = None


NOTHING = Given()


class Models:
    """The models of one request. What is not asked for is not loaded."""

    def __init__(
        self, request: Request, execution: Execution = Execution(), given: Given = NOTHING
    ) -> None:
        self.request, self.execution, self.given = request, execution, given

    @cached_property
    def dtype(self) -> str:
        """The request's. Where `auto` would be one that cannot be used, it is float32."""
        wanted, device = self.request.dtype, default_device(self.execution.device)
        by_pixels = isinstance(self.request.method, InversionSettings)
        has_bfloat16 = self.request.runtime == "torch" or device.type == "cuda"
        return "float32" if wanted == "auto" and (by_pixels or not has_bfloat16) else wanted

    @cached_property
    def classifier(self) -> Classifier:
        if isinstance(self.given.classifier, Classifier):
            return self.given.classifier
        return named_classifier(
            self.request.classifier,
            self.given.classifier,
            device=self.execution.device,
            dtype=self.dtype,
        )

    @cached_property
    def prior(self) -> Prior:
        """The prior; one that is loaded rests in main memory until it is settled (`memory.apply`)."""
        if isinstance(self.given.prior, Prior):
            return self.given.prior
        place = {"device": self.classifier.device}
        if self.given.prior is not None:
            return named_prior(self.request.prior, self.given.prior, **place)
        return named_prior(self.request.prior, dtype=self.dtype, rests=True, **place)

    @cached_property
    def student(self) -> Classifier | None:
        """A network of the same classes; one that is given as a module reads images as the classifier does."""
        given, named = self.given.student, self.request.student
        if isinstance(given, Classifier) or named is None:
            return given if isinstance(given, Classifier) else None
        return load_classifier(
            given or loadable("student", named.source),
            architecture=named.architecture,
            weights=named.weights,
            reads=named.reads,
            labels=named.labels or self.classifier.labels,
            preprocess=self.classifier.preprocess if isinstance(given, nn.Module) else None,
            device=self.classifier.device,
            dtype=self.dtype,
            statistics=named.statistics,
        )

    def tokens(self, named: str | None) -> TokenTable | None:
        """The token table of a file, or the one that was handed over; it fits the prior and the classifier."""
        if self.given.tokens is not None:
            check_fit(self.given.tokens, self.prior, self.classifier)
            return self.given.tokens
        if named is None:
            return None
        return load_tokens(loadable("token table", named), self.prior, self.classifier)


def named_prior(named: PriorSource, given: Any = None, **place: Any) -> Prior:
    """The prior of a request.

    given: its pipeline, in place of its source. place: arguments of `load_prior` that say where it is, and in which
    dtype.
    """
    return load_prior(
        given if given is not None else loadable("prior", named.source),
        variant=named.variant,
        revision=named.revision,
        tiny=named.tiny_decoder,
        quantise=named.quantise,
        lora=named.lora,
        call=named.call.given(),
        **place,
    )


def named_classifier(
    named: ClassifierSource, given: nn.Module | None = None, **place: Any
) -> Classifier:
    """The classifier of a request. given: its network, in place of its source. place: as for `named_prior`."""
    return load_classifier(
        given or loadable("classifier", named.source),
        architecture=named.architecture,
        weights=named.weights,
        reads=named.reads,
        labels=named.labels,
        statistics=named.statistics,
        **place,
    )


def loadable(what: str, source: str) -> str:
    """The source of a model. Raises ConfigError where a request names an object that is not there, or nothing."""
    if source.startswith(OBJECT):
        raise ConfigError(
            f"the {what} of the request is {source!r}, expected a source that can be loaded: it was handed over as an "
            "object. Hand the object to `generate` again, or name where it can be loaded from."
        )
    if not source:
        raise ConfigError(
            f"the request names no {what}, expected a source, such as 'embedded:photo': name one."
        )
    return source
