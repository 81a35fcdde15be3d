"""Phases in parts: as many images at once as the plan says, and half as many each time memory runs out.

A part that ran out of memory is run again, smaller, so a phase's work must not change anything outside of itself. Other
sizes round differently, and guided sampling makes another image of the same distribution of that: a run that has to
halve them says so, and its record keeps from which group on, over all its calls. Where several processes share a run,
sizes are fixed.
"""

import gc
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.errors import EngineError, brief
from engine.events import SILENT, MemoryRanOut
from engine.memory.budget import MemoryWarning
from engine.priors import Context, Denoise, Prior, Step
from engine.types import Prediction

T = TypeVar("T")
UNLIMITED = 2**31
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)
"""The words of a plain RuntimeError that mean "out of memory": of torch's allocator for the CPU, of cuBLAS and cuDNN,
and of torch where no cuDNN engine could get its workspace."""


class OutOfMemoryError(EngineError, MemoryError):
    """Not one image fits into memory, or fewer do than a run shared by several processes was planned with."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


class MicroBatches:
    """How many images each phase takes at once, by its name; all of them where no number is given.

    One object serves a whole run, so that what was learned of its memory in one batch holds for the next. release:
    frees memory that a run can do without, and says whether there was any; it is called before a size is halved.
    events: where a run out of memory is reported. fixed: whether sizes stay as they are, so that running out of memory
    is an error. previews: whether there is room for them, as far as is known.
    """

    def __init__(
        self, sizes: Mapping[str, int] | None = None, release: Callable[[], bool] = lambda: False
    ) -> None:
        self.sizes = dict(sizes or {})
        self.events = SILENT
        self.release = release
        self.fixed = False
        self.previews = True

    def attempt(self, phase: str, images: int, work: Callable[[int], T]) -> T:
        """`work` with the number of images that it may take at once, and again with half of it while memory runs out.

        Raises OutOfMemoryError where one image is too much, with a warning of MemoryWarning before each retry.
        """
        while True:
            size = max(1, min(self.sizes.get(phase, UNLIMITED), images))
            try:
                return work(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = brief(error)
            # Out of the block, so that the error's frames no longer hold the tensors of the failed attempt.
            if self.release():
                _clear()
            else:
                self._halve(phase, size, said)

    def split(self, phase: str, work: Callable[..., T], *rows: Any) -> list[T]:
        """Results of `work` on parts of `rows`, sequences or tensors of one length, in their order."""
        done: list[T] = []
        start = 0

        def part(size: int) -> tuple[T, int]:
            return work(*(values[start : start + size] for values in rows)), size

        while start < len(rows[0]):
            result, size = self.attempt(phase, len(rows[0]) - start, part)
            done.append(result)
            start += size
        return done

    def _halve(self, phase: str, size: int, said: str) -> None:
        _clear()
        if size == 1:
            raise OutOfMemoryError(
                f"memory ran out in phase {phase!r} with one image at a time ({said}), expected room for one: see "
                "`ddis plan` for what it needs; close what else uses the device, or choose a tiny decoder, a half "
                "precision or smaller images."
            )
        if self.fixed:
            raise OutOfMemoryError(
                f"memory ran out in phase {phase!r} with {size} images at once ({said}), expected room for as many as "
                "the run was planned with: the other processes that share it would make other images with fewer. Plan "
                "for less: begin the run with a smaller `memory` in another folder."
            )
        self.sizes[phase] = size // 2
        warnings.warn(
            f"memory ran out in phase {phase!r} with {size} images at once ({said}): going on with {size // 2}. "
            "Guided images from here on may be others of the same distribution; a plan with a smaller budget avoids "
            "that, and the lost time.",
            MemoryWarning,
            stacklevel=4,
        )
        self.events.emit(MemoryRanOut(phase, size, size // 2))


def _clear() -> None:
    """Give back to the device what nothing holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def denoise_in_parts(prior: Prior, context: Context, cfg: float, parts: MicroBatches) -> Denoise:
    """`Prior.denoiser`, with as many images in it at once as `parts` allows in the phase of sampling."""

    def denoise(z: Tensor, step: Step) -> Prediction:
        def work(rows: Tensor, of_rows: Context) -> Prediction:
            return prior.denoiser(of_rows, cfg)(rows, step)

        found = parts.split("sampling", work, z, context)
        return (
            found[0]
            if len(found) == 1
            else Prediction(*(torch.cat(values) for values in zip(*found, strict=True)))
        )

    return denoise
