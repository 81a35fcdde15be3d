"""The device that is measured: its models, its clock and its memory. On the CPU all of it is small, for a dry run."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

import torch
from torch import nn

from engine.classifiers import Classifier, load_classifier
from engine.memory.measure import Measured, measuring
from engine.priors import Prior, load_prior

T = TypeVar("T")
Work = Callable[[], object]
PRIOR = "arch:sd-2.1-base"
"""Stable Diffusion 2.1 at 512 px with random weights: its times and its memory are those of the real one."""
WARM_UP = 4
"""Calls before the first that counts. The engine records a CUDA graph at the third of one shape."""


class Card:
    """A CUDA device, or for a dry run the CPU."""

    def __init__(self, device: str) -> None:
        self.is_cuda = device == "cuda"
        # With its number: `set_per_process_memory_fraction` refuses a bare "cuda".
        self.device = torch.device("cuda", 0) if self.is_cuda else torch.device(device)
        self.dtype = torch.float16 if self.is_cuda else torch.float32

    def pick(self, full: T, dry: T) -> T:
        """The sizes of a part: `full` on CUDA, `dry` on the CPU."""
        return full if self.is_cuda else dry

    def prior(self) -> Prior:
        return load_prior(self.pick(PRIOR, "embedded"), device=self.device, dtype=self.dtype)

    def classifier(self, dtype: torch.dtype | None = None) -> Classifier:
        """ResNet-50 at 224 px with random weights, in a dry run an embedded one."""
        name = self.pick("arch:resnet50", "embedded:cartoon")
        return load_classifier(name, device=self.device, dtype=dtype or self.dtype)

    def synchronise(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Give back to the device what nothing holds."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def cap(self, nbytes: int) -> None:
        """From now on torch may reserve so many bytes. The CPU has no such limit."""
        if self.is_cuda:
            total = torch.cuda.mem_get_info(self.device)[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total), self.device)

    @contextmanager
    def peak(self, *networks: nn.Module) -> Iterator[Measured]:
        """Measure the highest memory of a block, the weights of `networks` included.

        On CUDA it is what torch reserves, with all that was there before; on the CPU the tensors that the block makes,
        and the weights.
        """
        self.clear()
        before = torch.cuda.memory_reserved(self.device) if self.is_cuda else weights_of(*networks)
        with measuring(self.device) as measured:
            yield measured
        measured.peak_bytes += before

    def seconds(self, work: Work, rounds: int = 5, warm_up: int = WARM_UP) -> float:
        """The median time of a call, with the device's work in it. In a dry run one call is enough."""
        rounds, warm_up = self.pick((rounds, warm_up), (1, 0))
        times = []
        for turn in range(warm_up + rounds):
            self.synchronise()
            began = time.perf_counter()
            work()
            self.synchronise()
            if turn >= warm_up:
                times.append(time.perf_counter() - began)
        return round(median(times), 6)

    def gpu_seconds(self, work: Work, rounds: int = 9, calls: int = 1) -> dict[str, float | str]:
        """The GPU's own time for a call, without the host's, from a CUDA graph of `calls` calls.

        Returns {"gpu_s": seconds}, {"not_captured": why} for work that no graph can hold, and {} on the CPU.
        """
        if not self.is_cuda:
            work()
            return {}
        try:
            return {"gpu_s": self._replayed(work, rounds, calls)}
        except RuntimeError as error:
            return {"not_captured": f"{type(error).__name__}: {error}"[:300]}

    def _replayed(self, work: Work, rounds: int, calls: int) -> float:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph, kept = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph):
            kept += [work() for _ in range(calls)]  # else the next call would take their memory
        times = []
        for _ in range(2 + rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / calls)
        return round(median(times[2:]), 8)


def weights_of(*networks: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(
        value.nbytes
        for network in networks
        for value in (*network.parameters(), *network.buffers())
    )
