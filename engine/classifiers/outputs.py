"""From whatever a network gives to class scores before softmax: (N, K) logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.errors import ModelError

SOFTMAX = ("softmax", "special_softmax")
SIGMOID = ("sigmoid", "expit", "special_expit")
PROBABILITIES = (*SOFTMAX, *SIGMOID)
"""Names of torch's functions that make probabilities of logits."""


class Watching(TorchFunctionMode):
    """Remembers the latest call of a function that makes probabilities: its name, what it read, and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: tuple[str, Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        called = getattr(func, "__name__", "")
        name = called.strip("_")
        if name not in PROBABILITIES:
            return func(*args, **given)
        read = args[0] if args else given["input"]
        read = read.clone() if called.endswith("_") else read
        self.latest = name, read, func(*args, **given)
        return self.latest[2]

    def made(self, output: Tensor) -> str:
        """The name of the function whose values a network's output are, in whatever shape or unit; "" for none."""
        if self.latest is None:
            return ""
        name, _, made = self.latest
        same = made.numel() == output.numel()
        return (
            name
            if same and (made.data_ptr() == output.data_ptr() or _in_unit(output, made))
            else ""
        )


class BeforeProbabilities(nn.Module):
    """A network that ends in softmax or sigmoid -> what it has just before: exact, also where these saturate."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        with Watching() as watching:
            output = scores_of(self.network(pixels))
        if watching.latest is None or watching.latest[2].numel() != output.numel():
            raise ModelError(
                "the network ended in softmax or sigmoid when it was tried and does not now, expected the same path "
                "through its code: wrap it in a module whose forward returns its logits alone."
            )
        return watching.latest[1].reshape(output.shape)


class LogProbabilities(nn.Module):
    """A network whose probabilities (N, K) cannot be undone inside -> their logarithms, whose softmax they are.

    sigmoid: each probability is of its class alone, and becomes log(p / (1 - p)).
    """

    def __init__(self, network: nn.Module, sigmoid: bool = False) -> None:
        super().__init__()
        self.network, self.sigmoid = network, sigmoid

    def forward(self, pixels: Tensor) -> Tensor:
        p = scores_of(self.network(pixels)).float()
        least = torch.finfo(p.dtype).tiny
        if self.sigmoid:
            p = p.clamp(least, 1 - torch.finfo(p.dtype).eps)
            return p.log() - (1 - p).log()
        return p.clamp_min(least).log()


class TwoClasses(nn.Module):
    """A network with one score z (N, 1), of the second of two classes -> logits (0, z): softmax gives sigmoid(z)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        score = scores_of(self.network(pixels))
        return torch.cat([torch.zeros_like(score), score], 1)


class GreyInput(nn.Module):
    """A network that reads one channel -> one that reads three, of which it gets the brightness."""

    shares: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shares", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), False)

    def forward(self, pixels: Tensor) -> Any:
        return self.network((pixels * self.shares).sum(1, keepdim=True))


def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """Class scores (N, K) of preprocessed images, whatever the network wraps them in."""
    return scores_of(network(pixels))


def scores_of(output: Any) -> Tensor:
    """The class scores (N, K) in what a network gives: alone, as `logits`, or as the only matrix of several values.

    Scores (N, K, 1, 1) lose their last axes. Raises ModelError where there are none, or more than one.
    """
    logits = getattr(output, "logits", output)
    if isinstance(logits, Mapping):
        logits = logits.get("logits", logits)
    if isinstance(logits, Mapping | tuple | list):
        values = logits.values() if isinstance(logits, Mapping) else logits
        found = [value for value in values if isinstance(value, Tensor) and _flat(value)]
        if len(found) != 1:
            raise _no_scores(f"{len(logits)} values, of which {len(found)} could be class scores")
        logits = found[0]
    if not isinstance(logits, Tensor):
        raise _no_scores(f"a {type(logits).__name__}")
    if not _flat(logits):
        raise _no_scores(f"a {type(logits).__name__} of shape {tuple(logits.shape)}")
    return logits if logits.dim() == 2 else logits.flatten(1)


def is_probability(row: Tensor) -> bool:
    """Whether each row of scores (N, K) is a distribution: not negative, with a sum of 1."""
    whole = (row.sum(1) - 1).abs().max() < 1e-4
    return bool(row.shape[1] > 1 and whole and (row >= 0).all())


def _in_unit(output: Tensor, made: Tensor) -> bool:
    """Whether an output is some values times one positive number, as per cent are. One value alone cannot tell."""
    scaled, values = output.detach().flatten().float(), made.detach().flatten().float()
    factor = scaled.sum() / values.sum()
    return bool(len(values) > 1 and factor > 0 and torch.allclose(scaled, values * factor, 1e-4, 0))


def _flat(value: Tensor) -> bool:
    return value.dim() == 2 or (value.dim() > 2 and all(side == 1 for side in value.shape[2:]))


def _no_scores(what: str) -> ModelError:
    return ModelError(
        f"the network returned {what}, expected logits (N, K): wrap it in a module whose forward returns the class "
        "scores alone."
    )
