"""Steps down the gradient of a loss on the image, taken on the latents: domain alignment guidance (DAG).

noisy (paper, eq. 9):   z~_t = z_t - eta dL(D(z_t))/dz_t                   before the UNet
clean (as MPGD does):   z~_0 = z_0|t - step dL(D(z_0|t))/dz_0|t            between the UNet and the DDIM step
relative step:          an rms of scale x the noise level: sqrt(1 - a_t) for z_t, sqrt((1 - a_t) / a_t) for z_0|t
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from engine.errors import GuidanceError
from engine.settings import Alignment
from engine.types import Step

MAX_SKIPPED = 0.1
"""The share of guidance steps that may be skipped for a gradient that is not finite."""


HALF_SCALE = 2.0**16
"""What a loss is multiplied by where a float16 network takes part: float16 ends at 6e-8 and at 65504."""
HALF_LOSS = 2.0**4
"""The largest loss that is multiplied by all of this. Gradients grow with their loss, so a larger one gets less."""
LEAST_SCALE = 2.0**-8
SMALLER = 2.0**-4
HEADROOM = 2.0**-4
"""How much smaller the scale is that guided steps have behind the first, whose gradient was looked at."""


def loss_scale(*dtypes: torch.dtype) -> float:
    """What to multiply a loss by whose gradient passes networks of these dtypes.

    1 for float32, and for bfloat16, which has its exponents.
    """
    return HALF_SCALE if torch.float16 in dtypes else 1.0


Scale = float | Tensor
"""A power of two that a loss is multiplied by on its way back, and its gradient divided by: a number, or ()."""


def fitted(scale: Scale) -> Scale | Callable[[Tensor], Tensor]:
    """A scale that follows the loss: `scale` up to HALF_LOSS, and for larger values (G,) by as much less.

    It is worked out where the values are, so that the host does not wait for them. At 1 it stays 1.
    """
    if not isinstance(scale, Tensor) and scale == 1:
        return scale

    def of(values: Tensor) -> Tensor:
        largest = values.detach().float().abs().nan_to_num(0.0, 0.0).amax().clamp_min(HALF_LOSS)
        share = HALF_LOSS / largest
        return scale * (
            share / torch.frexp(share).mantissa / 2
        )  # of a share of up to 1, the power of two below

    return of


def gradient(
    z: Tensor, loss: Callable[[Tensor], Tensor], scale: Scale | Callable[[Tensor], Tensor] = 1.0
) -> tuple[Tensor, Tensor]:
    """The loss's values (G,) and the gradient of their sum by z: (N, 4, h, w). The results hold no graph.

    scale: a `Scale`, or what gives one for the values, as `fitted` does.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        values = loss(leaf)
        by = scale(values) if callable(scale) else scale
        is_scaled = isinstance(by, Tensor) or by != 1
        (grad,) = torch.autograd.grad(values.sum() * by if is_scaled else values.sum(), leaf)
    return values.detach(), grad / by if is_scaled else grad


def finite_gradient(
    of: Callable[[float], tuple[Tensor, Tensor]], scale: float
) -> tuple[Tensor, Tensor, float]:
    """A gradient by the largest scale, from `scale` down, that leaves it finite, and that scale.

    of: scale -> what `gradient` gives with it.

    A pass that overflowed is made anew and not kept for this: keeping its graph would cost memory in every step. If no
    scale will do, the gradient is as it is, and so is the scale. At 1 nothing is looked at; else the host waits for it.
    """
    values, grad = of(scale)
    if scale == 1:
        return values, grad, scale
    tried, found = scale, grad
    while not bool(found.isfinite().all()):
        tried *= SMALLER
        if tried < LEAST_SCALE:
            return values, grad, scale
        values, found = of(tried)
    return values, found, tried


GradientOf = Callable[[Tensor, Scale], tuple[Tensor, Tensor]]
"""(latents (N, 4, h, w), scale) -> the loss's values and gradient, as `gradient` gives both with `fitted(scale)`."""


def _by_one_pass(
    loss: Callable[[Tensor], Tensor], z: Tensor, scale: Scale
) -> tuple[Tensor, Tensor]:
    return gradient(z, loss, fitted(scale))


def relative_step(grad: Tensor, length: float, joint: bool) -> Tensor:
    """A move along `grad` (N, 4, h, w) with an rms of `length`: over the whole batch if joint, else by image."""
    size = grad.square().mean((0, 1, 2, 3) if joint else (1, 2, 3), keepdim=True).sqrt()
    return length * grad / size.clamp_min(torch.finfo(grad.dtype).tiny)


class Unguided:
    """The steer that changes nothing: plain sampling."""

    def before(self, z: Tensor, step: Step) -> Tensor:
        return z

    def between(self, clean: Tensor, step: Step) -> Tensor:
        return clean


class DomainSteer:
    """Moves latents towards a classifier's training domain within a window of the schedule.

    One object serves one batch of N images: of each guided step it keeps the loss, (G,), and whether each image took
    the step, (N,) bool: one whose gradient is not finite is skipped. scale: see `fitted`. Where it is not 1, the first
    guided step is repeated with smaller ones until its gradient is finite. The host looks at no other step, as it would
    wait for the device: they have HEADROOM, and one that overflows all the same is skipped and lowers the scale of the
    next.
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        alignment: Alignment,
        scale: float = 1.0,
    ) -> None:
        self.gradient_of: GradientOf = partial(_by_one_pass, loss)
        self.alignment = alignment
        self.scale = scale
        self._scale: Tensor | None = None  # of the steps behind the first, on the device
        self.curve: list[Tensor] = []
        self.taken: list[Tensor] = []

    @classmethod
    def by_gradient(
        cls, gradient_of: GradientOf, alignment: Alignment, scale: float = 1.0
    ) -> "DomainSteer":
        """A steer by a loss whose gradient does not come about by one pass of autograd over the batch."""
        steer = cls(lambda z: z.new_zeros(1), alignment, scale)
        steer.gradient_of = gradient_of
        return steer

    def before(self, z: Tensor, step: Step) -> Tensor:
        """z_t: (N, 4, h, w) -> what the UNet shall see."""
        return self._move(z, step) if self.alignment.target == "noisy" else z

    def between(self, clean: Tensor, step: Step) -> Tensor:
        """The predicted clean latent: (N, 4, h, w) -> the one that the DDIM step shall use."""
        return self._move(clean, step) if self.alignment.target == "clean" else clean

    def acts_on(self, step: Step) -> bool:
        """Whether a step lies in the window. The last one never does: nothing would clean up after it."""
        inside = self.alignment.start <= step.index / step.total < self.alignment.stop
        return inside and not step.is_last and self.alignment.scale > 0

    def _move(self, z: Tensor, step: Step) -> Tensor:
        if not self.acts_on(step):
            return z
        values, grad = self._descended(z)
        self.curve.append(values)
        joint = self.alignment.statistics == "batch"
        finite = grad.isfinite().flatten(1).all(1)
        if joint:
            finite = finite.all().expand(len(z))
        self.taken.append(finite)
        if self.alignment.step == "raw":
            move = self.alignment.scale * grad
        else:
            move = relative_step(grad, self._length(step), joint)
        return torch.where(finite[:, None, None, None], z - move, z)

    def _descended(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss's values at z and its gradient."""
        if self.scale == 1:
            return self.gradient_of(z, 1.0)
        if self._scale is None:
            values, grad, self.scale = finite_gradient(
                lambda scale: self.gradient_of(z, scale), self.scale
            )
            self._scale = torch.full((), self.scale * HEADROOM, device=z.device)
            return values, grad
        values, grad = self.gradient_of(z, self._scale)
        lower = self._scale * SMALLER
        # An image that no scale makes finite must not leave the others with the least for good.
        lower = torch.where(lower < LEAST_SCALE, self.scale * HEADROOM, lower)
        self._scale = torch.where(grad.isfinite().all(), self._scale, lower)
        return values, grad

    def _length(self, step: Step) -> float:
        """The rms of a relative move at this step."""
        alpha = float(step.alpha)
        noise = (1 - alpha) ** 0.5
        return self.alignment.scale * (
            noise if self.alignment.target == "noisy" else noise / alpha**0.5
        )

    @property
    def skipped(self) -> list[int]:
        """How many steps of each image were skipped; [] where none was guided."""
        return (~torch.stack(self.taken)).sum(0).tolist() if self.taken else []

    def check(self) -> None:
        """Raise GuidanceError if more than a tenth of the image-steps had to be skipped."""
        skipped, guided = sum(self.skipped), sum(map(len, self.taken))
        if skipped > MAX_SKIPPED * guided:
            raise GuidanceError(
                f"{skipped} of {guided} guidance steps had a gradient that is NaN or infinite, expected at "
                f"most {MAX_SKIPPED:.0%}: lower the alignment scale, or sample in float32."
            )
