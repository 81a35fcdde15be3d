"""Domain alignment guidance (DAG): a move down the gradient of an objective, in the steps of a schedule.

clean (as MPGD does):   z~_0 = z_0|t - move,   between the prior's prediction and the next latent
noisy (paper, eq. 9):   z~_t = z_t - move,     before the prior predicts
raw move:               scale x gradient
relative move:          an rms of scale x the uncertainty: noise / signal for z_0|t (`Step.uncertainty`), noise for z_t

A step makes `Alignment.moves` moves. Where there are several, those of z_0|t are relative to the noise' / signal' that
the step leads to: in a schedule of few steps this is a fraction of noise / signal, and nothing larger is cleaned up.
"""

from collections.abc import Callable
from math import sqrt
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from engine.errors import GuidanceError
from engine.guidance.gradient import LEAST_SCALE, SMALLER, Scale, finite_gradient, fitted
from engine.guidance.objective import Objective
from engine.priors.interface import Denoise
from engine.priors.steps import Step
from engine.settings import Alignment

MAX_SKIPPED = 0.1
"""The share of moves that may be skipped for a gradient that is not finite."""

HEADROOM = 2.0**-4
"""How much smaller the scale is that guided steps have behind the first, whose gradient was looked at."""

Descend = Callable[[Tensor, Scale], tuple[Tensor, Tensor]]
"""(latents (N, ...), scale) -> the objective's values and gradient, as `gradient` gives both by `fitted(scale)`."""

T = TypeVar("T")


class AtOnce(Protocol):
    """Who knows how many images there is memory for: calls the work with their number, again where it was too many."""

    def __call__(self, images: int, work: Callable[[int], T]) -> T: ...


class Guidance:
    """Moves the latents of one group of N images towards a classifier's training domain, in a window of the schedule.

    Where the scale is not 1, the first guided step is repeated with smaller ones until its gradient is finite. The host
    looks at no other step, as it would wait for the device: they have HEADROOM, and one that overflows all the same is
    skipped and lowers the scale of the next.

    Attributes:
        curve: the objective (G,) before each move.
        taken: whether each image made the move, (N,) bool: one whose gradient is not finite is skipped.
        scale: of the first guided step, see `fitted`; once lowered it stays so.
    """

    def __init__(self, descend: Descend, alignment: Alignment, scale: float = 1.0) -> None:
        self.descend = descend
        self.alignment = alignment
        self.scale = scale
        self._scale: Tensor | None = None  # of the steps behind the first, on the device
        self.curve: list[Tensor] = []
        self.taken: list[Tensor] = []

    def move(self, clean: Tensor, step: Step) -> Tensor:
        """The predicted clean latent: (N, ...) -> the one that sampling goes on with."""
        return self._moved(clean, step) if self.alignment.target == "clean" else clean

    def before(self, denoise: Denoise) -> Denoise:
        """A denoiser that sees moved latents, where the settings move z_t; else the denoiser as it is."""
        if self.alignment.target == "clean":
            return denoise

        return lambda z, step: denoise(self.seen(z, step), step)

    def seen(self, z: Tensor, step: Step) -> Tensor:
        """The latents (N, ...) that the denoiser sees of z: moved ones where the settings move z_t."""
        return self._moved(z, step) if self.alignment.target == "noisy" else z

    def acts_on(self, step: Step) -> bool:
        """Whether a step is guided; see `Alignment.stride_at`."""
        return self.alignment.stride_at(step.index, step.total) > 0

    def _moved(self, z: Tensor, step: Step) -> Tensor:
        if not self.acts_on(step):
            return z
        for _ in range(self.alignment.moves):
            z = self._moved_once(z, step)
        return z

    def _moved_once(self, z: Tensor, step: Step) -> Tensor:
        if self.alignment.step == "relative":
            return self.moved(z, self._length(step))
        factor = self.alignment.scale * self.alignment.stride_at(step.index, step.total)
        return self._moved_by(z, lambda grad: factor * grad)

    def moved(self, z: Tensor, length: float) -> Tensor:
        """z (N, ...) moved down the gradient by an rms of `length`, each image by it where losses are per image."""
        return self._moved_by(z, lambda grad: relative_move(grad, length, self._joint))

    @property
    def _joint(self) -> bool:
        return self.alignment.statistics == "batch"

    def _moved_by(self, z: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
        values, grad = self._descended(z)
        self.curve.append(values)
        finite = grad.isfinite().flatten(1).all(1)
        if self._joint:
            finite = finite.all().expand(len(z))
        self.taken.append(finite)
        return torch.where(finite.view(-1, *[1] * (z.dim() - 1)), z - move(grad), z)

    def _descended(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The objective's values at z and its gradient."""
        if self.scale == 1:
            return self.descend(z, 1.0)
        if self._scale is None:
            values, grad, self.scale = finite_gradient(
                lambda scale: self.descend(z, scale), self.scale
            )
            self._scale = torch.full((), self.scale * HEADROOM, device=z.device)
            return values, grad
        values, grad = self.descend(z, self._scale)
        lower = self._scale * SMALLER
        # An image that no scale makes finite must not leave the others with the least for good.
        lower = torch.where(lower < LEAST_SCALE, self.scale * HEADROOM, lower)
        self._scale = torch.where(grad.isfinite().all(), self._scale, lower)
        return values, grad

    def _length(self, step: Step) -> float:
        """The rms of a relative move at this step."""
        # Independent gradients of k steps add up to sqrt(k) times the length of one.
        scale = self.alignment.scale * sqrt(self.alignment.stride_at(step.index, step.total))
        if self.alignment.target == "noisy":
            return scale * step.noise
        if self.alignment.moves == 1:
            return scale * step.uncertainty
        return scale * step.noise_next / step.signal_next

    @property
    def skipped(self) -> list[int]:
        """How many moves of each image were skipped; [] where none was guided."""
        return (~torch.stack(self.taken)).sum(0).tolist() if self.taken else []

    def check(self) -> None:
        """Raise GuidanceError if more than a tenth of all images' moves had to be skipped."""
        skipped, guided = sum(self.skipped), sum(map(len, self.taken))
        if skipped > MAX_SKIPPED * guided:
            raise GuidanceError(
                f"{skipped} of {guided} guidance moves had a gradient that is NaN or infinite, expected at "
                f"most {MAX_SKIPPED:.0%}: lower the alignment scale, or sample in float32."
            )


class Unguided(Guidance):
    """Guidance that moves nothing: plain sampling."""

    def __init__(self) -> None:
        super().__init__(lambda z, scale: (z.new_zeros(1), torch.zeros_like(z)), Alignment(scale=0))


def guided(
    objective: Objective,
    alignment: Alignment,
    classes: Tensor | None,
    scale: float,
    at_once: AtOnce,
    whole: Descend | None = None,
) -> Guidance:
    """The guidance of one group of images.

    Args:
        objective: of the latents of these images.
        alignment: how the objective moves them.
        classes: of the images, (N,); None leaves their term out.
        scale: what the objective is multiplied by at first on its way back, of `loss_scale`.
        at_once: says how many images there is room for.
        whole: what gives the objective and its gradient while there is room for all images, in place of autograd.
    """

    def descend(z: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
        def work(images: int) -> tuple[Tensor, Tensor]:
            if whole is not None and images == len(z):
                return whole(z, scale)
            return objective.value_and_grad(z, classes, images, fitted(scale))

        return at_once(len(z), work)

    return Guidance(descend, alignment, scale)


def relative_move(grad: Tensor, length: float, joint: bool) -> Tensor:
    """A move along `grad` (N, ...) with an rms of `length`: over the whole batch if joint, else by image."""
    axes = range(0 if joint else 1, grad.dim())
    size = grad.square().mean(tuple(axes), keepdim=True).sqrt()
    return length * grad / size.clamp_min(torch.finfo(grad.dtype).tiny)
