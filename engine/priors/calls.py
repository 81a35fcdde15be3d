"""The calls of its pipeline that a prior makes, and what it keeps of those that need not be repeated."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.errors import ConfigError, brief
from engine.networks.quiet import quiet
from engine.priors import hollow
from engine.priors.arguments import decodes_last_step, defaults_of
from engine.priors.cfg import guidance_arguments, negative_argument
from engine.priors.context import Context
from engine.priors.interface import Denoise
from engine.priors.resting import one_at_a_time
from engine.priors.roles import denoiser_name, text_encoder_names
from engine.priors.seams import Script, interrupted, run
from engine.priors.size import check_latents, check_positions, check_sides
from engine.priors.stand_ins import IdleNetwork, IdleTap, InDtype, SchedulerTap, StoppedDecoder
from engine.priors.steps import Levels, Step, levels, predict
from engine.types import Prediction

NO_CFG, ANY_CFG = 1.0, 2.0
"""Scales at which a pipeline encodes its prompts without and with a negative one."""
NO_STEPS = torch.empty(0)
"""The timesteps of a call that denoises nothing."""


class Timed(NamedTuple):
    """A scheduler whose timesteps are set, and what it says of them."""

    scheduler: Any
    levels: Levels
    steps: tuple[Step, ...]


class Calls:
    """The calls of one pipeline, each ended at a seam.

    pipe: the pipeline. name: what messages call it. arguments: those of its call that differ from its
    defaults. device: where it computes; where its denoiser is if None.
    """

    def __init__(
        self,
        pipe: Any,
        name: str,
        arguments: Mapping[str, Any],
        device: torch.device | None = None,
    ) -> None:
        self.pipe = pipe
        self.name = name
        self.arguments = dict(arguments)
        self.network_name = denoiser_name(pipe)
        network = getattr(pipe, self.network_name)
        # Asked once: diffusers goes through all modules for an answer.
        self.device: torch.device = device or network.device
        self.dtype: torch.dtype = network.dtype
        called = hollow.Outside(network) if hollow.is_hollow(self.device) else network
        self._network = InDtype(called, self.dtype)
        self._timed: dict[int, Timed] = {}
        self._prepared: dict[int, Script] = {}
        self._blank: Context | None = None

    def encoded(self, prompts: Sequence[str], negative: str | None) -> Context:
        """The context of N prompts, in the caller's gradient mode; that of a negative one has no graph."""
        results = self._results(prompts, NO_CFG, {})
        guided = None
        if negative is not None:
            with torch.no_grad():
                arguments = negative_argument(self.pipe, negative, 1)
                guided = self._results(prompts[:1], ANY_CFG, arguments)
        context = Context.of(results, guided, len(prompts), self._blank)
        if self._blank is None:
            self._blank = context[:1].detach()
        return context

    def timed(self, steps: int) -> Timed:
        """The pipeline's scheduler with the timesteps that the pipeline asks of it.

        Raises ConfigError for fewer than 1 step, or more than the prior has noise levels.
        """
        if steps not in self._timed:
            highest = self.pipe.scheduler.config.num_train_timesteps
            if not 1 <= steps <= highest:
                raise ConfigError(
                    f"sampling has {steps} steps, expected 1 to {highest}: prior {self.name!r} was trained with "
                    f"{highest} noise levels. Ask for fewer steps."
                )
            tap = SchedulerTap(copy.deepcopy(self.pipe.scheduler), None)
            twin = interrupted(self.pipe, self._blank_script(1), scheduler=tap)
            run(twin, self._call(1, NO_CFG, {}) | {"num_inference_steps": steps})
            self._check_first(tap.inner.timesteps[0].item(), steps, highest)
            found = levels(tap.inner)
            if not torch.stack(found[1:5]).isfinite().all():
                raise ConfigError(
                    f"sampling has {steps} steps, of which the {type(tap.inner).__name__} of prior {self.name!r} makes "
                    "noise levels that are not finite, expected more steps: ask for 2 at least."
                )
            self._timed[steps] = Timed(tap.inner, found, found.steps(self.device))
        return self._timed[steps]

    def prepared(self, images: int) -> Script:
        """What the pipeline prepares for N images: the shape of latents, and what it keeps besides them."""
        if images not in self._prepared:
            script = self._blank_script(images)
            script.ends_at = "latents"
            twin = interrupted(
                self.pipe, script, scheduler=SchedulerTap(self.pipe.scheduler, NO_STEPS)
            )
            run(twin, self._call(images, NO_CFG, {}))
            self._prepared[images] = script
            if images == 1:
                self._check_size(script)
        return self._prepared[images]

    def denoiser(self, context: Context, cfg: float | None) -> Denoise:
        """One step of the pipeline, its prompts and CFG bound, up to what its scheduler is handed."""
        images = len(context)
        script = self._script(images, tuple(context.results()))
        tap = SchedulerTap(self.pipe.scheduler, NO_STEPS)
        twin = interrupted(self.pipe, script, scheduler=tap, **{self.network_name: self._network})
        call = self._call(images, cfg, negative_argument(self.pipe, "", images))

        def denoise(z: Tensor, step: Step) -> Prediction:
            tap.inner, found, _ = self.timed(step.total)
            tap.timesteps = step.timestep.reshape(1)
            call["num_inference_steps"] = step.total
            script.latents, script.asked = z, 0
            run(twin, call)
            script.latents = None
            return predict(tap.taken().to(z.dtype), z, step, found.kind)

        return denoise

    def vae_latents(self, z: Tensor, decoder: nn.Module) -> Tensor:
        """What the pipeline hands a decoder for latents z: (N, ...), after no step."""
        # N is not looked at where nothing depends on it, so that a graph for any N can be traced.
        images = len(z) if self.prepared(1).more else 1
        script = self._script(images, tuple(self._context(images).results()))
        script.latents = z
        stopped = StoppedDecoder(decoder, self.device)
        parts: dict[str, Any] = {"scheduler": SchedulerTap(self.pipe.scheduler, NO_STEPS)}
        if decodes_last_step(self.pipe):
            parts["scheduler"] = IdleTap(self.pipe.scheduler, torch.zeros(1, dtype=torch.int64))
            parts[self.network_name] = IdleNetwork(self._network)
        run(interrupted(self.pipe, script, vae=stopped, **parts), self._call(images, NO_CFG, {}))
        return stopped.latents

    def _results(
        self, prompts: Sequence[str], cfg: float, negative: Mapping[str, Any]
    ) -> list[Any]:
        """The results of the pipeline's `encode_prompt`, call by call."""
        script = Script(self.device)
        arguments = self._call(len(prompts), cfg, negative) | {"prompt": list(prompts)}
        twin = interrupted(self.pipe, script, scheduler=SchedulerTap(self.pipe.scheduler, NO_STEPS))
        try:
            with quiet():
                run(twin, arguments)
        except ValueError as error:
            ours = defaults_of(self.pipe).items()
            given = dict(entry for entry in self.arguments.items() if entry not in ours)
            raise ConfigError(
                f"prior {self.name!r} refuses its call ({brief(error)}), expected arguments that a "
                f"{type(self.pipe).__name__} takes: correct those that are set, "
                f"{given or 'of which there are none'}."
            ) from error
        return script.encoded

    def _script(self, images: int, answers: Sequence[Any]) -> Script:
        """A call on N images whose latents are given later."""
        more = self.prepared(1).more and self.prepared(images).more
        return Script(self.device, answers=answers, more=more)

    def _blank_script(self, images: int) -> Script:
        return Script(self.device, answers=tuple(self._context(images).results()))

    def _context(self, images: int) -> Context:
        """Any context of N images, for calls in which the network does not run."""
        if self._blank is None:
            encoders = [getattr(self.pipe, name) for name in text_encoder_names(self.pipe)]
            resting = [one for one in encoders if one.device != self.device]
            with torch.no_grad(), one_at_a_time(resting, self.device):
                self.encoded([""], None)
        assert self._blank is not None
        return self._blank if images == 1 else self._blank[[0] * images]

    def _call(self, images: int, cfg: float | None, more: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a call on N images, of one step unless more are set.

        The generator keeps what a pipeline draws, and nobody uses, away from torch's own.
        """
        return {
            "prompt": [""] * images,
            "generator": torch.Generator(),
            "output_type": "pt",
            "num_inference_steps": 1,
            **self.arguments,
            **guidance_arguments(self.pipe, cfg),
            **more,
        }

    def _check_size(self, made: Script) -> None:
        """Raise ConfigError where a height or width is set that images would not have, or cannot have."""
        asked = {side: self.arguments.get(side) for side in ("height", "width")}
        if not any(asked.values()):
            return
        vae, network = self.pipe.vae, getattr(self.pipe, self.network_name)
        try:
            check_latents(self.name, vae, asked, made.shape)
            with torch.no_grad():
                latents = self.vae_latents(torch.zeros(made.shape, device=self.device), vae)
            check_sides(self.name, vae, asked, latents.shape)
            check_positions(self.name, vae, network, asked, made.shape)
        except ConfigError:
            del self._prepared[1]  # so that it is said each time
            raise

    def _check_first(self, first: float, steps: int, highest: int) -> None:
        """Raise ConfigError where a schedule begins beyond the noise levels. Those of flows end there."""
        if first > highest or (first == highest and isinstance(first, int)):
            raise ConfigError(
                f"{steps} steps begin at timestep {first}, expected less than {highest}: the scheduler of prior "
                f"{self.name!r} shifts its steps by {self.pipe.scheduler.config.get('steps_offset', 0)}. Ask for "
                "fewer steps."
            )
