"""Where a training runs: device, budget of time, and how many processes share it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from engine.errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a training runs, and for how many seconds at most; without a limit it runs for its recipe's steps.

    bfloat16: whether networks run in it, with their weights in float32.
    processes: how many train together, each on its share of every batch (`torchrun`). rank: which of them this one is.
    local_steps: how many steps each of them takes by itself before their weights and the optimizer's moments are
    averaged (local SGD, Stich 2019, with Adam); 1 shares the gradients of every step instead.
    """

    device: str = "cpu"
    seconds: float | None = None
    compiled: bool = False
    bfloat16: bool = False
    processes: int = 1
    rank: int = 0
    local_steps: int = 1

    def __post_init__(self) -> None:
        if self.local_steps < 1:
            raise ConfigError(
                f"each process is to take {self.local_steps} steps by itself, expected at least 1: give --local-steps "
                "a positive number."
            )
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError(
                f"the time budget is {self.seconds} s, expected more than 0: give --seconds a positive number."
            )
        if self.seconds is not None and self.processes > 1:
            raise ConfigError(
                f"a time budget came with {self.processes} processes, whose clocks differ, expected --steps: give the "
                "number of steps."
            )

    def share(self, batch: int) -> int:
        """How many samples of a batch this process takes. Raises ConfigError where they cannot be divided."""
        if batch % self.processes:
            raise ConfigError(
                f"the batch is {batch} and {self.processes} processes train together, expected a multiple of their "
                "number: change --batch."
            )
        return batch // self.processes

    def alone(self, stage: str) -> None:
        """Raise ConfigError where several processes train a stage that one has to train."""
        if self.processes > 1:
            raise ConfigError(
                f"{self.processes} processes are to train the stage {stage!r}, expected one, as its critic learns "
                "beside it: run it without torchrun."
            )

    def place(self, module: Network) -> Network:
        """The module on the device, in the memory format that it is fastest in.

        That is channels_last, except for networks with GroupNorm that run in bfloat16 on a CPU.
        """
        grouped = any(isinstance(part, nn.GroupNorm) for part in module.modules())
        slow = grouped and self.bfloat16 and self.device == "cpu"
        layout = torch.contiguous_format if slow else torch.channels_last
        return module.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def fast(self, module: Network) -> Network:
        """The module's forward pass: compiled where that was asked for, with gradients that all processes share."""
        found: Any = torch.compile(module) if self.compiled else module
        shared = self.processes > 1 and self.local_steps == 1
        return DistributedDataParallel(found) if shared else found  # type: ignore[return-value]

    @torch.no_grad()
    def average(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Where processes take steps by themselves: give all of them the mean of their weights and moments."""
        if self.processes == 1 or self.local_steps == 1:
            return
        tensors = [*model.state_dict().values()]
        tensors += [moment for state in optimizer.state.values() for moment in state.values()]
        moving: list[Tensor] = [value for value in tensors if value.is_floating_point()]
        flat = torch.cat([value.flatten() for value in moving])
        dist.all_reduce(flat)
        flat /= self.processes
        for value, mean in zip(
            moving, flat.split([value.numel() for value in moving]), strict=True
        ):
            value.copy_(mean.view(value.shape))

    def follow_first(self, values: Iterable[Tensor]) -> None:
        """Give all processes the values of the first, which alone writes what it has."""
        if self.processes > 1:
            for value in values:
                dist.broadcast(value, 0)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The block's networks run in bfloat16, where the machine is to use it.

        On a CPU their attention is written out, as torch's flash attention is slower there in its backward pass.
        """
        kind = self.device.split(":")[0]
        if not self.bfloat16:
            yield
        elif kind == "cpu":
            with torch.autocast(kind, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            with torch.autocast(kind, torch.bfloat16):
                yield


CPU = Machine()
