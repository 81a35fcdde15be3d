"""Graphs for ONNX Runtime: the prior's networks, the classifier, and the gradient of guidance as one graph.

Every graph takes a batch of any size. torch.export cannot see through a gradient, so that graph is traced to plain
operators first (`trace`), with the rules for what ONNX lacks (`rules`).
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from engine.classifiers.base import Classifier, logits_of
from engine.errors import MissingExtraError, ModelError, brief
from engine.events import SILENT, Events
from engine.files import TEMPORARY, explained, make_folder
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.gradient import loss_scale
from engine.guidance.objective import Objective
from engine.networks.frozen import fingerprint
from engine.onnx.rules import rules
from engine.onnx.trace import traced
from engine.priors import Prior
from engine.settings import Alignment

FORMAT = 2
"""Raised when a graph of equal models and settings would be another one."""
BATCH = 3
"""Of the examples: torch.export takes sizes of 0 and 1 for constants."""
LARGEST_BATCH = 63
"""What torch.export is told: from 64 images on diffusers lays a tensor out anew before it is upsampled, of which ONNX
knows nothing. Without this bound the export fails, and torch.onnx does it again with it. The file takes more."""
OF_THE_GRADIENT = ("statistics", "domain_weight", "class_weight", "norm", "layers")
"""What of an alignment is inside the gradient's graph, besides its decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network that can be written as ONNX. key: tells it from all others; examples: one tensor for each input.

    build: makes the module, which is only needed where the file is not there yet. batched: the inputs whose first axis
    is the batch.
    """

    name: str
    key: str
    build: Callable[[], nn.Module]
    examples: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batched: tuple[str, ...]


class _Calls(nn.Module):
    """A function over frozen parts as a module: `parts` are kept so that export finds their weights."""

    def __init__(self, function: Callable[..., Tensor], part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def unet_graph(prior: Prior) -> Graph:
    """(latents (N, 4, h, w), timestep (), context (N, L, D)) -> the UNet's own output (N, 4, h, w)."""
    width, length = prior.unet.config.cross_attention_dim, prior.tokenizer.model_max_length

    def call(z: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return prior.unet(z, timestep, encoder_hidden_states=context, return_dict=False)[0]

    examples = (
        _latents(prior),
        torch.tensor(1, device=prior.device),
        torch.zeros(BATCH, length, width, device=prior.device, dtype=prior.dtype),
    )
    return Graph(
        name="unet",
        key=_key("unet", prior),
        build=lambda: _Calls(call, prior.unet),
        examples=examples,
        inputs=("latents", "timestep", "context"),
        outputs=("output",),
        batched=("latents", "context"),
    )


def decoder_graph(prior: Prior) -> Graph:
    """latents (N, 4, h, w), unit variance -> images (N, 3, H, W) in [0, 1], from the prior's own VAE."""
    return Graph(
        name="decoder",
        key=_key("decoder", prior),
        build=lambda: _Calls(prior.decode, prior.vae),
        examples=(_latents(prior),),
        inputs=("latents",),
        outputs=("images",),
        batched=("latents",),
    )


def classifier_graph(classifier: Classifier, px: int) -> Graph:
    """images (N, 3, px, px) in [0, 1] -> logits (N, K), the classifier's preprocessing inside."""
    example = torch.zeros(BATCH, 3, px, px, device=classifier.device)
    return Graph(
        name="classifier",
        key=_key("classifier", classifier.describe(), px),
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
        build=lambda: _Calls(call, classifier.network),
        examples=(torch.zeros(BATCH, 3, *reads.crop, device=classifier.device),),
        inputs=("images",),
        outputs=("logits",),
        batched=("images",),
    )


def gradient_graph(
    prior: Prior, classifier: Classifier, alignment: Alignment, decoder: GuidanceDecoder
) -> Graph:
    """latents (N, 4, h, w) and, if the class counts, classes (N,) -> loss (1,) or (N,), and gradient (N, 4, h, w).

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
    latents = _latents(prior).float()  # as the sampler's; in float16 the loss's scale is infinite
    examples = (latents, *(classes if alignment.class_weight else ()))

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


def export_all(
    prior: Prior,
    classifier: Classifier,
    alignment: Alignment | None,
    decoder: GuidanceDecoder | None,
    folder: Path,
    events: Events = SILENT,
) -> list[Path]:
    """The files of every graph of these models below `folder`, which then serves as a cache of `session`."""
    graphs = [unet_graph(prior), decoder_graph(prior), classifier_graph(classifier, prior.image_px)]
    if alignment is not None and decoder is not None:
        graphs.append(gradient_graph(prior, classifier, alignment, decoder))
    files = []
    with events.task("graphs", len(graphs)) as task:
        for graph in graphs:
            files.append(exported(graph, folder))
            task.progress(1, str(files[-1]))
    return files


def exported(graph: Graph, cache: Path) -> Path:
    """The graph's file below `cache`, written if it is not there: its folder appears whole or not at all."""
    folder = cache / f"{graph.name}-{graph.key}"
    if not folder.is_dir():
        make_folder(cache)
        with explained(folder):
            temporary = Path(mkdtemp(prefix=TEMPORARY, dir=cache))
            try:
                write(graph, temporary / f"{graph.name}.onnx")
                if not folder.is_dir():
                    temporary.rename(folder)
            finally:
                rmtree(temporary, ignore_errors=True)
    return folder / f"{graph.name}.onnx"


def write(graph: Graph, file: Path, folded: bool = False) -> None:
    """Write one graph as an ONNX file; weights beyond 2 GB go into a second file beside it.

    folded: compute now what follows from constants alone, such as the zeros of a convolution without a bias.
    """
    for package in ("onnx", "onnxscript"):
        installed(package)
    batch = torch.export.Dim("batch", max=LARGEST_BATCH)
    shapes = [{0: batch} if name in graph.batched else {} for name in graph.inputs]
    try:
        with _quiet(), torch.no_grad():
            module = graph.build().eval()
            program = torch.onnx.export(
                module,
                graph.examples,
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=(tuple(shapes),) if isinstance(module, _Calls) else tuple(shapes),
                verbose=False,
                optimize=folded,
            )
            assert program is not None
            _forget_sources(program.model)
            program.save(file)
    except (torch.onnx.OnnxExporterError, NotImplementedError) as error:
        raise ModelError(
            f"the {graph.name} cannot be written as ONNX ({brief(error)}), expected a network whose operators ONNX "
            "has: sample with runtime='torch'."
        ) from error


def _forget_sources(model: Any) -> None:
    """Take out of a model what the exporter says of each node's lines of Python: paths of this machine, mostly."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()


def installed(package: str) -> ModuleType:
    """An optional package of the extra `onnx`."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{package} is not installed ({brief(error)}), expected it for ONNX: run `pip install 'ddis[onnx]'`, or "
            "sample with runtime='torch'."
        ) from error


def _latents(prior: Prior) -> Tensor:
    return torch.zeros(BATCH, *prior.latent_shape, device=prior.device, dtype=prior.dtype)


def _key(*facts: object) -> str:
    """16 hex digits of all that a graph depends on."""
    values: Sequence[object] = [
        (fact.fingerprint, str(fact.dtype), fact.device.type, fact.latent_shape)
        if isinstance(fact, Prior)
        else fact
        for fact in facts
    ]
    text = repr((FORMAT, torch.__version__, *values))
    return blake2b(text.encode(), digest_size=8).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
