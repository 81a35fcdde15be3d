"""Where a training runs: device, budget of time, and how many processes share it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a training runs, and for how many seconds at most; without a limit it runs for its recipe's steps.

    processes: how many train together, each on its share of every batch (`torchrun`). rank: which of them this one is.
    """

    device: str = "cpu"
    seconds: float | None = None
    compiled: bool = False
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
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
        """The module on the device, in the memory format that convolutions are fastest in."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fast(self, module: Network) -> Network:
        """The module's forward pass: compiled where that was asked for, with gradients that all processes share."""
        found: Any = torch.compile(module) if self.compiled else module
        return DistributedDataParallel(found) if self.processes > 1 else found  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision in bfloat16 on a GPU; nothing on a CPU."""
        gpu = self.device.startswith("cuda")
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=gpu)


CPU = Machine()
