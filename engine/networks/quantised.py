"""Frozen linear layers with weights of 4.5 or 8 bits, differentiable with respect to their input.

    nf4    blocks of 64 weights, each weight one of 16 levels that are equally likely under a normal distribution, times
           the block's largest (Dettmers et al., QLoRA, NeurIPS 2023); kernels of bitsandbytes
    int8   rows of weights, each rounded to one of 255 levels of the row's largest

The weight is dequantised to the network's dtype for each product, forward and backward, and not kept in between.
Besides its bias, a layer keeps only integer buffers, which no cast of the network changes. So it moves between devices
as any other layer does, and it can be sized on 'meta', where NF4 needs no package.
"""

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from engine.errors import ConfigError, MissingExtraError, brief
from engine.networks.frozen import PRECISE

Quantisation = Literal["none", "nf4", "int8"]
BLOCK = 64
"""Weights of NF4 that share a scale."""
LEAST = 1024
"""Number of weights of the smallest layer that is quantised."""


class QuantisedLinear(nn.Module):
    """A frozen `nn.Linear` whose weight is dequantised when it is used.

    dtype: of the dequantised weight.
    """

    bias: Tensor | None

    def __init__(self, of: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = of.in_features, of.out_features
        self.dtype = of.weight.dtype
        self.bias = of.bias

    @property
    def weight(self) -> Tensor:
        """A weight without memory of its own: some networks ask for its dtype and shape."""
        one = torch.empty((), dtype=self.dtype, device=self._kept().device)
        return one.expand(self.out_features, self.in_features)

    @abstractmethod
    def assembled(self) -> Tensor:
        """The weight (out, in) in `dtype`."""

    @abstractmethod
    def _kept(self) -> Tensor:
        """A buffer that says where the layer is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return _Product.apply(x, self)


class Linear4bit(QuantisedLinear):
    """NF4. packed: two weights a byte. scales: the largest of each block, as the bits of a float32."""

    packed: Tensor
    scales: Tensor

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of)
        if of.weight.is_meta:
            count = of.weight.numel()
            packed = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device="meta")
            scales = torch.empty(-(-count // BLOCK), dtype=torch.int32, device="meta")
        else:
            packed, state = _bitsandbytes().functional.quantize_4bit(
                of.weight.data, blocksize=BLOCK, quant_type="nf4"
            )
            scales = state.absmax.view(torch.int32)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)

    def assembled(self) -> Tensor:
        shape = (self.out_features, self.in_features)
        if self.packed.is_meta:
            return torch.empty(shape, dtype=self.dtype, device="meta")
        _bitsandbytes()
        scales = self.scales.view(torch.float32)
        put_together = torch.ops.bitsandbytes.dequantize_4bit
        made: Tensor = put_together(self.packed, scales, BLOCK, "nf4", shape, self.dtype)
        return made

    def _kept(self) -> Tensor:
        return self.packed


class Linear8bit(QuantisedLinear):
    """int8. levels: (out, in). scales: a step of each row, as the bits of a float32 (out, 1)."""

    levels: Tensor
    scales: Tensor

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of)
        weight = of.weight.data.float()
        step = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("levels", (weight / step).round().to(torch.int8))
        self.register_buffer("scales", step.view(torch.int32))

    def assembled(self) -> Tensor:
        # Multiplied in float32 and rounded once: a rounded scale would shift its whole row.
        made = torch.empty(self.levels.shape, dtype=self.dtype, device=self.levels.device)
        return torch.mul(self.levels, self.scales.view(torch.float32), out=made)

    def _kept(self) -> Tensor:
        return self.levels


class _Product(torch.autograd.Function):
    """`x W^T + b` of a quantised layer, whose weight is dequantised again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        ctx.dtype = x.dtype
        bias = None if layer.bias is None else layer.bias.to(layer.dtype)
        return linear(x.to(layer.dtype), layer.assembled(), bias).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return (grad.to(ctx.layer.dtype) @ ctx.layer.assembled()).to(ctx.dtype), None


KINDS: dict[str, type[QuantisedLinear]] = {"nf4": Linear4bit, "int8": Linear8bit}
SCALE_BYTES = 4


def bytes_of(network: nn.Module, kind: str) -> int:
    """Bytes of a network's parameters and buffers if it were quantised to `kind`; 'none' is its own dtype.

    The network may be quantised already: each layer knows its original shape and dtype.
    """
    layers: list[nn.Linear | QuantisedLinear] = [layer for _, layer in _quantisable(network)]
    layers += [part for part in network.modules() if isinstance(part, QuantisedLinear)]
    inside = {id(v) for layer in layers for v in (layer._buffers | layer._parameters).values()}
    storages = {
        value.untyped_storage()._cdata: value.untyped_storage().nbytes()
        for value in (*network.parameters(), *network.buffers())
        if id(value) not in inside
    }
    biases = sum(layer.bias.nbytes for layer in layers if layer.bias is not None)
    return sum(storages.values()) + biases + sum(_weight_bytes(layer, kind) for layer in layers)


def _weight_bytes(layer: nn.Linear | QuantisedLinear, kind: str) -> int:
    count = layer.in_features * layer.out_features
    if kind == "nf4":
        return -(-count // 2) + SCALE_BYTES * -(-count // BLOCK)
    if kind == "int8":
        return count + SCALE_BYTES * layer.out_features
    return count * layer.weight.dtype.itemsize


def quantise(network: nn.Module, kind: str, device: torch.device | None = None) -> None:
    """Replace a frozen network's linear layers by quantised ones, one at a time.

    Layers stay as they are if the network keeps them in float32, if they share an embedding's weight, or if they are
    small. Rounding runs on `device`, if given; each layer then returns to its own device.

    Raises ConfigError for an unknown kind and for a device without kernels for it, MissingExtraError without the
    package that NF4 needs.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"quantise is {kind!r}, expected one of 'none', {', '.join(map(repr, KINDS))}: choose one of these."
        )
    if kind == "nf4" and device is not None and device.type != "meta":
        _check_nf4(device)
    for path, layer in _quantisable(network):
        home = layer.weight.device
        away = home if layer.weight.is_meta or device is None else device
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, KINDS[kind](layer.to(away)).to(home))


def _check_nf4(device: torch.device) -> None:
    """Raise ConfigError for a device on which bitsandbytes cannot quantise a block: it has no kernels there."""
    quantise_block = _bitsandbytes().functional.quantize_4bit
    try:
        quantise_block(torch.ones(BLOCK, device=device), blocksize=BLOCK, quant_type="nf4")
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        raise ConfigError(
            f"quantise is 'nf4' and bitsandbytes cannot quantise on {device} ({brief(error)}), expected a device that "
            "it has kernels for: choose 'int8', which torch computes anywhere, or install a bitsandbytes for this "
            "device."
        ) from error


def _quantisable(network: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The layers that are quantised, by their paths. A weight that an embedding shares is kept for that one anyway."""
    precise = getattr(network, PRECISE, None) or ()
    shared = {id(part.weight) for part in network.modules() if isinstance(part, nn.Embedding)}
    return [
        (path, layer)
        for path, layer in network.named_modules()
        if type(layer) is nn.Linear
        and _worth_it(layer)
        and id(layer.weight) not in shared
        and not any(part in precise for part in path.split("."))
    ]


def _worth_it(layer: nn.Linear) -> bool:
    return layer.weight.numel() >= LEAST and layer.in_features % 2 == 0


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError(
            "bitsandbytes is not installed, expected it for weights in NF4: install the extra 'gpu' "
            "(pip install 'ddis[gpu]'), or choose 'int8', which needs no package."
        ) from error
    return bitsandbytes
