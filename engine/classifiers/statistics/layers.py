"""Which layers of a network to measure, and what one pass does at each: by names, or by a rule that fits any network.

The rule reads what stored statistics would belong to: the inputs of all normalisation layers (LayerNorm, RMSNorm,
GroupNorm, InstanceNorm, BatchNorm); in a network without any, such as one whose BatchNorm was folded, the outputs of
its convolutions and matrices, but for the logits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from engine.classifiers.statistics.base import Examined, Side, Tap
from engine.classifiers.statistics.batch_norm import is_batch_norm
from engine.classifiers.statistics.rows import rows_of
from engine.errors import ConfigError
from engine.settings.plain import nearest

OUTPUT = ":output"
"""Behind a layer's name: measure what it gives, not what it reads."""
NAMED = 20
"""Layers that a message lists."""
FIRST = 1
LAST = -1
WORDS_FOR_NORMS = ("LayerNorm", "RMSNorm", "GroupNorm")
"""In the class names of libraries' own normalisation layers, which are no children of torch's."""


class Place(nn.Identity):
    """A place to measure in a graph without layers: gives what it reads.

    Attributes:
        kind: 'norm' where a normalisation reads this value, 'product' where a convolution or matrix gives it.
        axis: that of the channels.
    """

    def __init__(self, kind: Literal["norm", "product"], axis: int) -> None:
        super().__init__()
        self.kind, self.axis = kind, axis


class Call(NamedTuple):
    """What one call of a layer can be measured at: its name, which side, the channels' axis, and their number.

    overwritten: whether the network writes over the tensor before the pass ends. rows, interleaved: see `Tap`.
    """

    path: str
    of: Side
    axis: int
    channels: int
    overwritten: bool
    rows: int = 1
    interleaved: bool = False

    def tap(self, network: nn.Module) -> Tap:
        """The tap of this call in a network of the same layers."""
        return Tap(
            network.get_submodule(self.path),
            self.axis,
            self.of,
            self.overwritten,
            self.rows,
            self.interleaved,
        )


def calls_by_rule(examined: Examined) -> list[Call]:
    """The calls that the rule chooses, in call order. Raises ConfigError for a network that has none."""
    layers = dict(examined.network.named_modules())
    norms = {path: layer for path, layer in layers.items() if is_norm(layer)}
    calls = watched(dict.fromkeys(norms, ("input",)), examined)
    if calls:
        return calls
    products = {path: layer for path, layer in layers.items() if _is_product(layer)}
    calls = watched(dict.fromkeys(products, ("output",)), examined)
    calls = [call for call in calls[:-1] if call.channels > 1]  # the last one gives the logits
    if not calls:
        raise ConfigError(
            "the network runs no normalisation and fewer than two convolutions or matrices as layers, expected "
            "some to measure: name others with `layers`, such as 'features.*'."
        )
    return calls


def calls_by_name(examined: Examined, names: Sequence[str]) -> list[Call]:
    """The calls of named layers, in call order.

    names: of layers, or patterns such as 'blocks.*.norm1'; with ':output' behind what is measured is what they give.
    Raises ConfigError for a name of no layer, and for layers that do not run or read no tensor.
    """
    layers = dict(examined.network.named_modules())
    wanted: dict[str, tuple[Side, ...]] = {}
    for name in names:
        pattern = name.removesuffix(OUTPUT)
        side: Side = "output" if name.endswith(OUTPUT) else "input"
        found = [path for path in layers if path and fnmatchcase(path, pattern)]
        if not found:
            raise ConfigError(
                f"layers has {name!r}, expected a name or pattern of the network's {len(layers) - 1} layers, such as "
                f"{', '.join(map(repr, _examples(layers)))}: choose one of them.{nearest(pattern, layers)}"
            )
        for path in found:
            wanted[path] = tuple(dict.fromkeys((*wanted.get(path, ()), side)))
        if not watched(dict.fromkeys(found, (side,)), examined):
            raise ConfigError(
                f"layers has {name!r}, of which no layer runs on a tensor (N, C, ...) in evaluation mode, expected "
                "one that does: some layers run in training alone, some are read by others but never called. Name "
                "another."
            )
    return watched(wanted, examined)


def watched(wanted: Mapping[str, Iterable[Side]], examined: Examined) -> list[Call]:
    """The calls of layers in one pass, in call order: of each, the wanted sides that are float tensors (N, C, ...).

    Raises ConfigError where nothing says which rows of a tensor are one image's.
    """
    network = examined.network
    seen: list[tuple[str, Side, nn.Module, Tensor, int]] = []

    def note(path: str, side: Side, layer: nn.Module, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1:
            seen.append((path, side, layer, value, value._version))

    def reading(path: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        return lambda layer, inputs: note(path, "input", layer, inputs[0] if inputs else None)

    def giving(path: str) -> Callable[[nn.Module, object, object], None]:
        return lambda layer, _, output: note(path, "output", layer, output)

    hooks = []
    for path, sides in wanted.items():
        layer = network.get_submodule(path)
        if "input" in sides:
            hooks.append(layer.register_forward_pre_hook(reading(path)))
        if "output" in sides:
            hooks.append(layer.register_forward_hook(giving(path)))

    def record(run: Callable[[], object]) -> list[Tensor]:
        seen.clear()
        run()
        return [value for _, _, _, value, _ in seen]

    try:
        with torch.inference_mode(False), torch.no_grad():
            single = record(examined.run)
            kept = list(seen)
            divided = rows_of(examined, record, single)
            seen = kept
    finally:
        for hook in hooks:
            hook.remove()
    if divided is None:
        raise ConfigError(
            "the network mixes images along the first axis of what its layers read, expected rows of one image after "
            "the other: name other layers with `layers`."
        )
    changed = {(path, side) for path, side, _, value, version in seen if value._version != version}
    return [
        Call(path, side, axis, value.shape[axis], (path, side) in changed, *rows)
        for (path, side, layer, value, _), rows in zip(seen, divided, strict=True)
        for axis in (channel_axis(layer, value),)
    ]


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises what it reads."""
    if isinstance(layer, Place):
        return layer.kind == "norm"
    kinds = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _InstanceNorm)
    named = any(word in type(layer).__name__ for word in WORDS_FOR_NORMS)
    return isinstance(layer, kinds) or is_batch_norm(layer) or (named and not [*layer.children()])


def channel_axis(layer: nn.Module, x: Tensor) -> int:
    """The axis of the channels of what a layer reads or gives: 1 in maps (N, C, H, W), the last in tokens (N, T, C)."""
    if isinstance(layer, Place):
        return layer.axis
    if isinstance(layer, _ConvNd | nn.GroupNorm | _InstanceNorm) or is_batch_norm(layer):
        return FIRST
    if isinstance(layer, nn.Linear):
        return LAST
    if is_norm(layer):
        of_maps = getattr(layer, "data_format", "") == "channels_first"
        whole = len(getattr(layer, "normalized_shape", ())) > 1
        return FIRST if of_maps or whole or "2d" in type(layer).__name__ else LAST
    return FIRST if x.dim() != 3 else LAST


def _is_product(layer: nn.Module) -> bool:
    if isinstance(layer, Place):
        return layer.kind == "product"
    return isinstance(layer, _ConvNd | nn.Linear)


def _examples(layers: Mapping[str, nn.Module]) -> list[str]:
    """Some names of a network's layers, the usual ones to measure first."""
    names = [
        path for path, layer in layers.items() if path and (is_norm(layer) or _is_product(layer))
    ]
    return (names or [path for path in layers if path])[:NAMED]
