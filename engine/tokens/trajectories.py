"""The images of learning: a batch is sampled once, and its gradients read it at a few steps of its way.

    clean(z_t, S) = null(z_t) + s (conditional(z_t, tau(y, S)) - null(z_t)),   both predicted clean latents

A clean prediction is affine in the denoiser's output, so classifier-free guidance (CFG) may be combined behind it.
Tokens are in the conditional branch alone: an early step's gradient costs one forward and one backward pass through the
denoiser, and its null branch is left over from sampling. Where a pipeline rescales what CFG gives
(`Prior.cfg_is_affine`), the graph has both branches. The published last step is differentiated as it is sampled.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from engine.guidance.move import Guidance
from engine.priors import Context, Denoise, Prior, Step
from engine.sampling.loop import OnStep, in_interval, sample
from engine.sampling.noise import ImageNoise
from engine.settings import Sampling
from engine.tokens.early import early_pool, early_steps, propagation_factor
from engine.types import ImageKey, Prediction

DRAWN_FROM = (0.1, 0.6)
"""The part of a schedule that a gradient's step is drawn from."""

Denoiser = Callable[[Context, float], Denoise]
"""(context, CFG) -> a denoiser bound to them, as `Prior.denoiser` does it."""


def gradient_steps(gradient: str, steps: int, updates: int, rng: torch.Generator) -> list[int]:
    """The numbers of the steps that carry the gradients of `updates` updates, by the rule `TokenLearning.gradient`.

    drawn: from the part DRAWN_FROM of the schedule, none twice before each was there once. early: those that carry one
    update together.
    """
    if gradient == "last":
        return [steps - 1] * updates
    if gradient == "early":
        return early_steps(steps, rng)
    first, end = (round(share * steps) for share in DRAWN_FROM)
    size = max(end - first, 1)
    rounds = -(-updates // size)
    return [first + int(n) for _ in range(rounds) for n in torch.randperm(size, generator=rng)][
        :updates
    ]


class Trajectories:
    """A batch of images on its way from noise, sampled up to the latest of the steps `at`, without a graph.

    keys: N images. context: of their prompts, with a negative one unless CFG is 1. guide: gives the guidance of some
    images. denoiser: makes the denoiser of steps without a graph; the prior's own if None. through: whether images are
    sampled to their end, and one update reads all of the steps `at` (see `early`). denoiser_forward,
    denoiser_backward: (N,) evaluations that each image has cost so far, but for those that saving memory repeats.
    """

    def __init__(
        self,
        prior: Prior,
        keys: Sequence[ImageKey],
        context: Context,
        sampling: Sampling,
        seed: int,
        guide: Callable[[Sequence[ImageKey]], Guidance],
        at: Sequence[int],
        on_step: OnStep | None = None,
        denoiser: Denoiser | None = None,
        through: bool = False,
    ) -> None:
        self.prior, self.keys, self.sampling, self.on_step = prior, keys, sampling, on_step
        self.denoiser = denoiser or prior.denoiser
        self.context, self.at, self.through = context.detach(), tuple(at), through
        self.guide, self.guidance = guide, guide(keys)
        dtype = torch.promote_types(prior.dtype, torch.float32)
        self.noise = ImageNoise(seed, keys, prior.latent_shape(1)[1:], prior.device, dtype)
        self.schedule = prior.schedule(sampling.steps)
        self.denoiser_forward = torch.zeros(len(keys), dtype=torch.int64)
        self.denoiser_backward = self.denoiser_forward.clone()
        self.kept: dict[int, Tensor] = {}
        self.kept_null: dict[int, Tensor] = {}
        with torch.no_grad():
            part = self.schedule[: self.latest]
            z = sample(
                prior.noise(self.noise.generators, sampling.steps).to(dtype),
                self.guidance.before(self._denoise),
                part,
                self.guidance.move,
                on_step,
                sampling.eta,
                self.noise,
            )
        self.guidance.check()
        self.z = z
        self.denoiser_forward += sum(map(self._branches, range(self.latest)))

    @property
    def latest(self) -> int:
        """The number of steps that are sampled at first."""
        return len(self.schedule) if self.through else max(self.at)

    @property
    def complete(self) -> bool:
        """Whether the images that the first gradient reads are the finished ones."""
        return self.through or self.at[0] == len(self.schedule) - 1

    @torch.no_grad()
    def seen(self, number: int) -> Tensor:
        """The latents (N, ...) that the denoiser sees in one of the steps `at`: guided where guidance moves z_t."""
        if number not in self.kept:
            self.kept[number] = self.guidance.seen(self.z, self.schedule[number])
        return self.kept[number]

    @torch.no_grad()
    def prepare(self, update: int) -> None:
        """Compute what the images of an update need without a graph, and count its denoiser evaluations."""
        if self.through:
            passes = sum(1 if self._apart(n) else self._branches(n) for n in self.at)
            self.denoiser_forward += passes
            self.denoiser_backward += passes
            return
        number = self.at[update]
        is_last = number == len(self.schedule) - 1
        both = self._branches(number)
        branches = 1 if self._apart(number) and not is_last else both
        if both > branches and number not in self.kept_null:
            denoise = self.denoiser(self.context.null(), 1.0)
            self.kept_null[number] = denoise(self.seen(number), self.schedule[number]).clean
            self.denoiser_forward += 1
        self.denoiser_forward += branches
        self.denoiser_backward += branches

    def latents(self, update: int, context: Context, start: int = 0) -> Tensor:
        """Latents (n, ...) that the step of an update predicts of the n rows from `start`, after `prepare`.

        context: of these rows, with a graph. Nothing here changes, so it may be run again, and in parts.
        """
        number, rows = self.at[update], range(start, start + len(context))
        if self.through:
            return self._through(context, rows)
        if number == len(self.schedule) - 1:
            return self._last_latents(context, rows)
        z, step = self.seen(number)[rows.start : rows.stop], self.schedule[number]
        if not self._apart(number):
            return self.prior.denoiser(context, self._cfg(number))(z, step).clean
        clean = self.prior.denoiser(context, 1.0)(z, step).clean
        null = self.kept_null[number][rows.start : rows.stop]
        return null + self.sampling.cfg * (clean - null)

    @torch.no_grad()
    def finished(self, rows: Sequence[int]) -> Tensor:
        """Latents (n, ...) of some of the images, sampled on to the end with the prompts that they began with."""
        latest, rows = self.latest, list(rows)
        guidance = self.guide([self.keys[row] for row in rows])
        denoise = in_interval(partial(self.denoiser, self.context[rows]), self.sampling)
        part, noise = self.schedule[latest:], self.noise.of(rows)
        z = sample(
            self.z[rows],
            guidance.before(denoise),
            part,
            guidance.move,
            self.on_step,
            self.sampling.eta,
            noise,
        )
        guidance.check()
        self.denoiser_forward[rows] += sum(self._branches(step.index) for step in part)
        return z

    def _cfg(self, number: int) -> float:
        """The scale of CFG in a step."""
        return self.sampling.cfg_at(number, len(self.schedule))

    def _branches(self, number: int) -> int:
        """Evaluations of the denoiser that an image costs in a step."""
        return 1 if self._cfg(number) == 1 else 2

    def _apart(self, number: int) -> bool:
        """Whether the branches of a step can run apart."""
        return self._branches(number) > 1 and self.prior.cfg_is_affine

    def _last_latents(self, context: Context, rows: Sequence[int]) -> Tensor:
        """Finished latents of some of the images, the last step's graph on them."""
        guidance = (
            self.guidance
            if len(rows) == len(self.keys)
            else self.guide([self.keys[row] for row in rows])
        )
        own = in_interval(partial(self.prior.denoiser, context), self.sampling)
        denoise = guidance.before(own)
        z, part = self.z[rows[0] : rows[-1] + 1], self.schedule[-1:]
        on_step = self.on_step if torch.is_grad_enabled() else None
        noise = self.noise.fork(rows)
        return sample(z, denoise, part, guidance.move, on_step, self.sampling.eta, noise)

    def _through(self, context: Context, rows: range) -> Tensor:
        """Finished latents of some of the images, with the graphs of the steps `at` on them.

        Each step's part of the gradient is what `early.propagation_factor` says, for all steps that it was drawn from.
        """
        schedule = self.schedule
        share = early_pool(len(schedule)) / len(self.at)
        z = self.z[rows.start : rows.stop]
        for number in self.at:
            cfg = self._cfg(number)
            weight = cfg if self._apart(number) else 1.0  # the null branch has no graph
            denoise = self.prior.denoiser(context, 1.0 if self._apart(number) else cfg)
            clean = denoise(self.kept[number][rows.start : rows.stop], schedule[number]).clean
            weight *= share * propagation_factor(schedule, number, self.sampling.eta)
            z = z + weight * (clean - clean.detach())
        return z

    def _denoise(self, z: Tensor, step: Step) -> Prediction:
        """A step without a graph; one that a gradient will read keeps its latents and its null branch."""
        if step.index in self.at:
            self.kept[step.index] = z
        if self.through or step.index not in self.at or not self._apart(step.index):
            return self.denoiser(self.context, self._cfg(step.index))(z, step)
        conditional = self.denoiser(self.context, 1.0)(z, step)
        null = self.denoiser(self.context.null(), 1.0)(z, step)
        self.kept_null[step.index] = null.clean
        pairs = zip(null, conditional, strict=True)
        cfg = self.sampling.cfg
        return Prediction(*(free + cfg * (prompted - free) for free, prompted in pairs))
