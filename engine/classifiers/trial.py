"""A network that anybody may have written, tried on one image before anything is asked of it.

Failures of its code end in words, its scores get the usual form, and numbers that cannot be used are found now.
"""

import copy
import struct
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from engine.classifiers.outputs import (
    SIGMOID,
    SOFTMAX,
    BeforeProbabilities,
    GreyInput,
    LogProbabilities,
    TwoClasses,
    Watching,
    is_probability,
    scores_of,
)
from engine.errors import ClassifierWarning, ConfigError, ModelError, brief

FOREIGN = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, NameError, ImportError, OSError, struct.error),
)
"""What code raises that was written for other inputs."""


class Tried(NamedTuple):
    """A network that was tried.

    Attributes:
        network: the same, or in a module that brings its input or output into the usual form.
        classes: K, of its logits (N, K).
        differentiable: whether a gradient reaches its input.
    """

    network: nn.Module
    classes: int
    differentiable: bool


def own_copy(network: nn.Module) -> nn.Module:
    """A copy of a caller's network, which stays as it is. Raises ModelError for one that cannot be copied.

    Tensors that an earlier pass left in it, as weight_norm and hooks do, are copied without their graph.
    """
    left = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        with torch.no_grad():  # else TorchScript copies its weights with a graph
            return copy.deepcopy(network, left)
    except FOREIGN as error:
        raise ModelError(
            f"classifier {type(network).__name__!r} cannot be copied ({brief(error)}), expected a module that "
            "copy.deepcopy takes: take out what it holds besides layers and tensors, such as loggers, files, locks and "
            "results of earlier passes."
        ) from error


def tried(name: str, network: nn.Module, example: Tensor, labels: Sequence[str]) -> Tried:
    """Run a frozen network on one image, and bring what it reads and gives into the usual form.

    Args:
        name: of the classifier, for messages.
        network: in evaluation mode, in float32.
        example: one preprocessed image (1, 3, H, W).
        labels: of the classes, as they are known so far: two of them make two classes of one score.

    Raises:
        ModelError: for a network that cannot read the image, gives no class scores, or holds numbers that cannot be
            used.
        ConfigError: for a network with one score, and labels that are not two.

    Warns:
        ClassifierWarning: where the network is used in another form than it was handed over in, or seems bounded.
    """
    network, output, made, called = _run(name, network, example)
    if not output.is_meta:
        _check_numbers(name, called, output)
        network = _of_logits(name, network, example, output, made)
    classes = output.shape[1]
    if classes == 1:
        network, classes = _of_two(name, network, labels), 2
    return Tried(network, classes, output.requires_grad)


def _run(
    name: str, network: nn.Module, example: Tensor
) -> tuple[nn.Module, Tensor, str, list[nn.Module]]:
    """The network, its scores of an image, what made probabilities of them, and the modules that ran."""
    called: list[nn.Module] = []
    convolutions: list[int] = []

    def note(module: nn.Module, _: object) -> None:
        called.append(module)
        if isinstance(module, _ConvNd):
            convolutions.append(module.in_channels)

    hooks = (
        []
        if _scripted(network)
        else [module.register_forward_pre_hook(note) for module in network.modules()]
    )
    try:
        with torch.inference_mode(False), torch.enable_grad(), Watching() as watching:
            # The product is no leaf: it may be written over.
            output = scores_of(network(example.clone().requires_grad_() * 1))
            made = watching.made(output) if not output.is_meta else ""
    except FOREIGN as error:
        if convolutions[:1] == [1] and example.shape[1] == 3:
            warnings.warn(
                f"classifier {name!r} reads grey images: it gets the brightness of colour ones.",
                ClassifierWarning,
                stacklevel=2,
            )
            return _run(name, GreyInput(network).to(example.device), example)
        raise ModelError(
            f"classifier {name!r} cannot read one image {tuple(example.shape)} as it is preprocessed "
            f"({brief(error)}), expected a network of images (N, 3, H, W) in evaluation mode: check the input size and "
            "the kind of network; wrap one that reads anything else in a module that reads such images."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return network, output, made or _scripted_end(network), called or [*network.modules()]


def _scripted(network: nn.Module) -> bool:
    return isinstance(network, torch.jit.ScriptModule)


def _scripted_end(network: nn.Module) -> str:
    """The operator that a TorchScript network ends in, where it makes probabilities; "" otherwise."""
    if not _scripted(network):
        return ""
    graph: Any = network.inlined_graph  # its nodes live as long as it does
    last = next(graph.outputs()).node().kind().removeprefix("aten::")
    return last if last in (*SOFTMAX, *SIGMOID) else ""


def _check_numbers(name: str, called: Sequence[nn.Module], output: Tensor) -> None:
    """Raise ModelError where a tensor of a module that ran, or what came out, is NaN or infinite."""
    used = {
        id(value): value
        for module in called
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if value.is_floating_point() and value.numel()
    }
    broken = [one for one in used.values() if not _finite(one)]
    if broken:
        names = {id(value): key for module in called[:1] for key, value in _named(module)}
        first = names.get(id(broken[0]), f"one of shape {tuple(broken[0].shape)}")
        raise ModelError(
            f"{len(broken)} of {len(used)} tensors of classifier {name!r} hold NaN or infinite values (first: "
            f"{first}), expected finite ones: its training diverged, it was saved in too small a precision, or the "
            "file is damaged. Load another checkpoint."
        )
    if not _finite(output):
        raise ModelError(
            f"classifier {name!r} gives scores of an image that are NaN or infinite, expected finite ones: its "
            "weights are finite, but too large, or its preprocessing is another. Check mean and std, or load another "
            "checkpoint."
        )


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _finite(value: Tensor) -> bool:
    return bool(value.detach().isfinite().all())


def _of_logits(
    name: str, network: nn.Module, example: Tensor, output: Tensor, made: str
) -> nn.Module:
    """The network before its softmax or sigmoid, where it has one: cross-entropy is of logits."""
    sigmoid = made in SIGMOID
    if not (sigmoid or made in SOFTMAX or is_probability(output)):
        _warn_of_bounds(name, network, example, output)
        return network
    function = "sigmoid" if sigmoid else "softmax"
    if made and not _scripted(network):
        inside: nn.Module = BeforeProbabilities(network)
        what = f"what it has before its {function} is taken for its logits"
    else:
        inside = LogProbabilities(network, sigmoid)
        what = (
            "their logarithms are taken for its logits, which lose what the probabilities round to 0; the network "
            f"without its {function} is better"
        )
    warnings.warn(
        f"classifier {name!r} gives probabilities ({function}): {what}."
        + (
            " Its classes need not exclude each other, and are used as if they did."
            * (sigmoid and output.shape[1] > 1)
        ),
        ClassifierWarning,
        stacklevel=2,
    )
    return inside


def _warn_of_bounds(name: str, network: nn.Module, example: Tensor, output: Tensor) -> None:
    """Warn where scores look like probabilities that were scaled, moved or cut, also those of extreme images."""
    if not (output >= 0).all() or not output.any():
        return
    try:
        with torch.no_grad():
            scales = (1, -10, 100, 1e4, -1e4, 1e6, -1e6)
            rows, far = torch.cat([scores_of(network(example * by)) for by in scales]).split((3, 4))
    except FOREIGN:
        return  # it checks what it reads
    most, alike = rows.max(), torch.allclose(rows.sum(1), rows[0].sum(), 1e-4)
    flat = far.min() < far.max() < torch.inf and torch.allclose(far[:2], far[2:], 1e-3)
    if (rows >= 0).all() and (most <= 1 or 99 < most <= 100 or alike or flat):
        warnings.warn(
            f"classifier {name!r} scores even extreme images from {rows.min():.3g} to {most:.3g}, like probabilities, "
            "by which guidance is weak and confidence wrong: wrap it in a module that returns its logits.",
            ClassifierWarning,
            stacklevel=2,
        )


def _of_two(name: str, network: nn.Module, labels: Sequence[str]) -> nn.Module:
    """A network with one score as one with two classes."""
    if len(labels) != 2:
        raise ConfigError(
            f"classifier {name!r} has 1 output and {len(labels)} labels, expected two labels: one score tells two "
            "classes apart. Set `labels` to the class of low scores and the class of high ones, in this order."
        )
    warnings.warn(
        f"classifier {name!r} gives one score: low ones are taken for {labels[0]!r} and high ones for {labels[1]!r}.",
        ClassifierWarning,
        stacklevel=2,
    )
    return TwoClasses(network)
