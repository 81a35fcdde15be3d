"""Methods `ddis` and `plain`: a request for drawn images, made ready.

`plain` is the prior alone: settings without alignment. With tokens it is CAT without DAG.
"""

import warnings

from engine.classifiers.base import class_numbers
from engine.errors import ConfigError, PriorWarning
from engine.guidance.assembly import descent_of
from engine.guidance.decoder import decoder_of
from engine.guidance.objective import check_statistics
from engine.memory.apply import plan_of, settle
from engine.memory.budget import AUTO
from engine.memory.graphs import Graphs, backend_of, graphed_descent, graphed_prior
from engine.memory.layout import lay_out, lay_out_as_chosen
from engine.memory.micro_batch import MicroBatches
from engine.methods.drawing import Drawing, settings_of
from engine.methods.models import Models
from engine.methods.runtime import engines
from engine.methods.words import check_words, warn_of_no_token
from engine.priors import Prior
from engine.request import Execution, Request
from engine.settings import AUTO_ATTENTION, TokenLearning
from engine.settings.methods import DrawingSettings


def prepare(
    request: Request,
    models: Models,
    execution: Execution,
    learning: TokenLearning | None = None,
) -> Drawing:
    """Load classifier and prior and check them and all settings against each other.

    learning: what the plan must have room for as well, where tokens are learned; images_per_class is then an epoch's.
    """
    settings = settings_of(request)
    alignment, sampling = settings.alignment, settings.sampling
    _check_settings(settings)
    _check_runtime(request, models, execution)
    classifier = models.classifier
    classes = class_numbers(classifier, request.classes)
    check_statistics(classifier, alignment)
    prior = models.prior
    tokens = models.tokens(settings.tokens)
    prior.schedule(sampling.steps)  # refuses now more steps than the prior has noise levels
    prior.check_sampling(sampling.cfg, sampling.negative_prompt)
    _warn_of_guidance_twice(prior, settings)
    memory = models.given.plan or execution.memory
    plan = plan_of(
        memory if request.runtime == "torch" else None,
        prior,
        classifier,
        min(sampling.batch, len(classes) * request.images_per_class),
        alignment,
        sampling,
        learning,
        execution.attention,
        execution.graphs,
    )
    settle(plan, prior)
    if plan is not None:
        lay_out(plan.channels_last, prior, classifier)
    elif request.runtime == "torch":  # the exporter of ONNX graphs knows one layout alone
        lay_out_as_chosen(prior, classifier)
    checkpoint = plan is not None and "guidance" in plan.checkpoint
    decoder = decoder_of(alignment, prior, classifier.preprocess, checkpoint) if alignment else None
    prior, descend = engines(
        request.runtime, prior, classifier, alignment, decoder, execution.onnx_cache
    )
    replayed = None
    if execution.graphs and plan is not None and not plan.eager_because:
        replayed = Graphs(backend_of(prior.device))
        prior = graphed_prior(prior, replayed)
        if alignment is not None and decoder is not None:
            descend = graphed_descent(replayed, descent_of(classifier, alignment, decoder))
    labels = [classifier.labels[number] for number in classes]
    if tokens is not None:
        warn_of_no_token(tokens, classes, labels)
    learned = tokens is not None or learning is not None
    instead = tokens.instead if tokens else learning is not None and learning.place == "instead"
    check_words(prior, labels, sampling.prompt, learned, instead)
    return Drawing(
        request=request,
        classifier=classifier,
        prior=prior,
        classes=classes,
        tokens=tokens,
        decoder=decoder,
        plan=plan,
        micro_batches=MicroBatches(
            plan.micro_batch if plan else None, replayed.release if replayed else lambda: False
        ),
        descend=descend,
    )


def _check_settings(settings: DrawingSettings) -> None:
    """Raise ConfigError for what makes no sense whatever the models are."""
    if settings.alignment is not None and settings.sampling.steps < 2:
        raise ConfigError(
            "sampling has 1 step and alignment is on, expected at least 2 steps: the last step is never guided, so "
            "nothing would be. Raise the steps, or choose method 'plain'."
        )


def _warn_of_guidance_twice(prior: Prior, settings: DrawingSettings) -> None:
    """Warn (PriorWarning) where an adapter that guidance was distilled into meets the guidance itself."""
    if prior.adapter != "guidance":
        return
    twice = [f"cfg {settings.sampling.cfg:g}"] if settings.sampling.cfg != 1 else []
    if settings.alignment is not None and settings.alignment.stride == 1:
        twice.append("alignment at every step")
    if twice:
        warnings.warn(
            f"the prior's adapter holds guidance, and the run has {' and '.join(twice)} besides, expected neither, as "
            "they count twice: choose method 'plain' (or an alignment.stride of 4, say) and set cfg to 1.",
            PriorWarning,
            stacklevel=2,
        )


def _check_runtime(request: Request, models: Models, execution: Execution) -> None:
    """Raise ConfigError for what the chosen runtime cannot use."""
    if request.runtime == "torch" and execution.onnx_cache is not None:
        raise ConfigError(
            f"onnx_cache is {execution.onnx_cache!r} with runtime 'torch', expected runtime 'onnx': torch exports no "
            "graph. Leave the folder out, or choose that runtime."
        )
    if request.runtime == "torch":
        return
    given = models.given.prior
    quantise = given.quantise if isinstance(given, Prior) else request.prior.quantise
    if quantise != "none":
        raise ConfigError(
            f"quantise is {quantise!r} with runtime 'onnx', expected 'none': ONNX graphs are exported from layers that "
            "are not quantised. Leave it out, or use runtime 'torch'."
        )
    planned = models.given.plan is not None
    if planned or execution.memory != AUTO:
        memory = "a plan" if planned else repr(execution.memory)
        raise ConfigError(
            f"memory is {memory} with runtime 'onnx', expected 'auto': ONNX Runtime allocates by itself. Leave the "
            "budget out, or use runtime 'torch'."
        )
    if execution.attention != AUTO_ATTENTION:
        raise ConfigError(
            f"attention is {execution.attention!r} with runtime 'onnx', expected 'auto': ONNX Runtime has its own. "
            "Leave it out, or use runtime 'torch'."
        )
