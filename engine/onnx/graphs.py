"""What is written as ONNX: the prior's networks as its pipeline calls them, the classifier, the gradient of guidance.

Every graph takes a batch of any size. torch.export cannot see through a gradient, so that graph is traced to plain
operators first (`trace`), with the rules for what ONNX lacks (`rules`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from engine.classifiers.base import Classifier
from engine.classifiers.outputs import logits_of
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.gradient import loss_scale
from engine.guidance.objective import Objective
from engine.networks.frozen import fingerprint
from engine.onnx.probe import probed
from engine.onnx.rules import rules
from engine.onnx.trace import traced
from engine.priors import Prior
from engine.settings import Alignment

FORMAT = 3
"""Raised when a graph of equal models and settings would be another one."""
BATCH = 3
"""Of the examples: torch.export takes sizes of 0 and 1 for constants."""
OF_THE_GRADIENT = ("statistics", "domain_weight", "class_weight", "norm", "layers")
"""What of an alignment is inside the gradient's graph, besides its decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network that can be written as ONNX.

    Attributes:
        name: Of its file and in messages.
        key: Tells it from all others.
        build: Makes the module, which is only needed where the file is not there yet.
        examples: One tensor for each input.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        batched: The inputs whose first axis is the batch.
    """

    name: str
    key: str
    build: Callable[[], nn.Module]
    examples: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batched: tuple[str, ...]


class Calls(nn.Module):
    """A function over frozen parts as a module: `part` is kept so that export finds its weights."""

    def __init__(self, function: Callable[..., Tensor], part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def denoiser_graph(prior: Prior) -> Graph:
    """The tensors that the pipeline hands its denoiser -> the denoiser's own output (N, ...).

    For a UNet these are latents (N, C, h, w), timestep () and context (N, L, D).
    """
    name = next(part.name for part in prior.components() if part.role == "denoiser")
    call = probed(prior, BATCH)
    network = prior.network

    def run(*inputs: Tensor) -> Tensor:
        args, kwargs = call.arguments(inputs)
        return network(*args, **kwargs)[0]

    return Graph(
        name=name,
        key=_key(name, prior),
        build=lambda: Calls(run, network),
        examples=call.tensors,
        inputs=call.names,
        outputs=("output",),
        batched=call.batched,
    )


def decoder_graph(prior: Prior) -> Graph:
    """latents (N, ...) as the pipeline hands them to its VAE -> pixels (N, 3, H, W) in about [-1, 1]."""
    vae: Any = prior.vae

    def run(latents: Tensor) -> Tensor:
        return vae.decode(latents, return_dict=False)[0]

    with torch.no_grad():
        latents = prior.vae_latents(_latents(prior)).to(vae.dtype)
    return Graph(
        name="decoder",
        key=_key("decoder", prior),
        build=lambda: Calls(run, vae),
        examples=(latents,),
        inputs=("latents",),
        outputs=("pixels",),
        batched=("latents",),
    )


def classifier_graph(classifier: Classifier, size: tuple[int, int]) -> Graph:
    """images (N, 3, *size) in [0, 1] -> logits (N, K), the classifier's preprocessing inside."""
    example = torch.zeros(BATCH, 3, *size, device=classifier.device)
    return Graph(
        name="classifier",
        key=_key("classifier", classifier.describe(), size),
        build=lambda: traced(
            lambda images: classifier.logits(images), (example,), rules()
        ),  # no bound method
        examples=(example,),
        inputs=("images",),
        outputs=("logits",),
        batched=("images",),
    )


def network_graph(classifier: Classifier) -> Graph:
    """images (N, 3, H, W) in [0, 1] of the network's own size -> logits (N, K), layers whole, for a quantiser.

    Unlike in `classifier_graph` nothing is resized, and BatchNorm is an operator that folds into convolutions.
    """
    reads = classifier.preprocess

    def call(images: Tensor) -> Tensor:
        return logits_of(classifier.network, reads.normalised(images).to(classifier.dtype)).float()

    return Graph(
        name="network",
        key=_key("network", classifier.describe()),
        build=lambda: Calls(call, classifier.network),
        examples=(torch.zeros(BATCH, 3, *reads.crop, device=classifier.device),),
        inputs=("images",),
        outputs=("logits",),
        batched=("images",),
    )


def gradient_graph(
    prior: Prior, classifier: Classifier, alignment: Alignment, decoder: GuidanceDecoder
) -> Graph:
    """latents (N, ...) and, if the class counts, classes (N,) -> loss (1,) or (N,), and gradient (N, ...).

    They are those of `Objective.value_and_grad` behind the decoder.
    """
    objective = Objective(classifier, alignment, decoder)
    scale = loss_scale(decoder.vae.dtype, classifier.dtype)

    # Each takes what its graph does: tracing counts arguments, those with a default too.
    def by_both(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        return objective.value_and_grad(z, classes, scale=scale)

    def by_domain(z: Tensor) -> tuple[Tensor, Tensor]:
        return objective.value_and_grad(z, None, scale=scale)

    classes = (torch.zeros(BATCH, dtype=torch.int64, device=prior.device),)
    examples = (_latents(prior), *(classes if alignment.class_weight else ()))

    def build() -> nn.Module:
        with torch.no_grad():
            objective.value(*examples)  # the pass that pairs layers with activations reads values
        domain = objective.domain
        descended = by_both if alignment.class_weight else by_domain
        return traced(descended, examples, rules(None if domain is None else domain.target))

    inputs = ("latents", "classes")[: len(examples)]
    settings = {name: value for name, value in asdict(alignment).items() if name in OF_THE_GRADIENT}
    seen_through = (
        fingerprint([decoder.vae]),
        decoder.kind,
        decoder.px,
        decoder.margin,
        str(decoder.vae.dtype),
    )
    return Graph(
        name="gradient",
        key=_key("gradient", prior, classifier.describe(), settings, seen_through),
        build=build,
        examples=examples,
        inputs=inputs,
        outputs=("loss", "gradient"),
        batched=inputs,
    )


def _latents(prior: Prior) -> Tensor:
    """Latents as the sampler's, float32: in float16 the loss's scale is infinite."""
    return torch.zeros(prior.latent_shape(BATCH), device=prior.device)


def _key(*facts: object) -> str:
    """16 hex digits of all that a graph depends on."""
    values = [_facts(fact) if isinstance(fact, Prior) else fact for fact in facts]
    text = repr((FORMAT, torch.__version__, *values))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _facts(prior: Prior) -> tuple[object, ...]:
    """All of a prior that its graphs depend on."""
    shape = tuple(prior.latent_shape(1)[1:])
    return prior.fingerprint, str(prior.dtype), prior.device.type, shape, sorted(prior.call.items())
