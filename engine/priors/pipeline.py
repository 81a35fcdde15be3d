"""A diffusers pipeline as a prior: each method is one call of the pipeline, ended at a seam.

Sampling through it gives the pipeline's own images, but for what schedulers do besides a first-order
step. For Stable Diffusion with DDIM these are the pipeline's bits.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ConfigError, brief
from engine.networks.frozen import fingerprint
from engine.networks.quiet import quiet
from engine.priors.context import Context
from engine.priors.interface import Component, Denoise, TextEncoder
from engine.priors.marks import marked
from engine.priors.roles import (
    DECODER,
    TINY,
    check_pipeline,
    components_of,
    denoiser_name,
    guidance_arguments,
    negative_argument,
    text_encoders_of,
)
from engine.priors.seams import InDtype, Script, StoppedDecoder, Tap, interrupted, run
from engine.priors.steps import FLOW, Levels, Step, check_scheduler, levels, predict
from engine.types import Prediction

NO_CFG, ANY_CFG = 1.0, 2.0
"""Scales at which a pipeline encodes its prompts without and with a negative one."""
NO_STEPS = torch.empty(0)
"""The timesteps of a call that denoises nothing."""


class PipelinePrior:
    """A frozen pipeline. It shares the networks it is given and changes neither them nor the pipeline.

    Args:
        pipe: A text-to-image pipeline whose networks are frozen and in evaluation mode.
        name: What messages and records call it.
        tiny: A small decoder of the same latents, for guidance; None for none.
        call: Arguments of the pipeline's call that differ from its defaults, such as its height.
        mark: The fingerprint; computed if None.
    """

    def __init__(
        self,
        pipe: Any,
        name: str,
        *,
        tiny: nn.Module | None = None,
        call: Mapping[str, Any] | None = None,
        mark: str | None = None,
    ) -> None:
        check_pipeline(pipe)
        check_scheduler(pipe.scheduler)
        self.pipe = pipe
        self.name = name
        self.tiny = tiny
        self.call = dict(call or {})
        self.fingerprint = marked(pipe) if mark is None else mark
        self._denoiser = denoiser_name(pipe)
        self._network = InDtype(getattr(pipe, self._denoiser))
        self._timed: dict[int, tuple[Any, Levels, tuple[Step, ...]]] = {}
        self._made: dict[int, Script] = {}
        self._blank: Context | None = None

    @property
    def network(self) -> Any:
        """The denoiser."""
        return getattr(self.pipe, self._denoiser)

    @property
    def vae(self) -> Any:
        """The decoder of final images."""
        return getattr(self.pipe, DECODER)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self._latents_made(1).size

    def describe(self) -> dict[str, Any]:
        """What images depend on, as JSON values."""
        facts: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype),
            "tiny": None if self.tiny is None else fingerprint([self.tiny]),
        }
        return facts | ({"call": self.call} if self.call else {})

    def components(self) -> tuple[Component, ...]:
        """The networks, each once."""
        return components_of(self.pipe, self.tiny)

    def text_encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders that tokens can be added to."""
        return text_encoders_of(self.pipe)

    def replaced(self, **parts: Any) -> "PipelinePrior":
        """A twin with some components or tokenizers replaced, by name; `tiny` is the tiny decoder."""
        tiny = parts.pop(TINY, self.tiny)
        pipe = copy.copy(self.pipe)
        pipe.__dict__.update(parts)
        return PipelinePrior(pipe, self.name, tiny=tiny, call=self.call, mark=self.fingerprint)

    def called_with(self, **call: Any) -> "PipelinePrior":
        """A twin with other arguments of the pipeline's call, such as height and width."""
        return PipelinePrior(
            self.pipe, self.name, tiny=self.tiny, call=self.call | call, mark=self.fingerprint
        )

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Context:
        """The context of N prompts, in the caller's gradient mode.

        Args:
            prompts: N texts.
            negative: The prompt of CFG's other branch, which serves all and gets no gradient; None for
                a context without it, for denoisers with a CFG of 1.
        """
        results = self._encoded(prompts, NO_CFG, {})
        guided = None
        if negative is not None:
            with torch.no_grad():
                told = negative_argument(self.pipe, negative, 1)
                guided = self._encoded(prompts[:1], ANY_CFG, told)
        context = Context.of(results, guided, len(prompts))
        if self._blank is None:
            self._blank = context[:1].detach()
        return context

    def schedule(self, steps: int) -> tuple[Step, ...]:
        """The steps of a run, from noise to image, as the pipeline asks its own scheduler for them.

        Raises ConfigError for fewer than 1, or more than the prior has noise levels.
        """
        return self._schedule(steps)[2]

    def latent_shape(self, images: int) -> torch.Size:
        """The shape of the latents of N images."""
        return torch.Size((images, *_first(self._latents_made(1).made).shape[1:]))

    def noise(self, generators: Sequence[torch.Generator], steps: int) -> Tensor:
        """Latents (N, ...) that a run of `steps` starts from, each drawn by its own CPU generator."""
        shape = self.latent_shape(1)[1:]
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return drawn.to(self.device) * self._schedule(steps)[1].start

    def denoiser(self, context: Context, cfg: float | None = None) -> Denoise:
        """Bind N prompts and classifier-free guidance.

        Args:
            context: Of N prompts, one per latent; with a negative prompt where cfg is not 1.
            cfg: The scale s of `u + s (c - u)`; at 1 only the conditional branch runs. None for the
                pipeline's default.
        """
        images = len(context)
        script = self._script(images, answers=tuple(context.results()))
        tap = Tap(self.pipe.scheduler, NO_STEPS)
        twin = interrupted(self.pipe, script, scheduler=tap, **{self._denoiser: self._network})
        arguments = self._arguments(images, cfg, negative_argument(self.pipe, "", images))

        def denoise(z: Tensor, step: Step) -> Prediction:
            tap.inner, found, _ = self._schedule(step.total)
            tap.timesteps = step.timestep.reshape(1)
            script.latents, script.encoded = z, []
            arguments["num_inference_steps"] = step.total
            run(twin, arguments)
            output, script.latents, tap.output = tap.output, None, None
            return predict(output.to(z.dtype), z, step, found.kind)

        return denoise

    def vae_latents(self, z: Tensor, decoder: nn.Module | None = None) -> Tensor:
        """Latents (N, ...) as the pipeline hands them to its VAE, unpacked and unscaled.

        decoder: another decoder to whose scale they are brought; None for the VAE. Differentiable.
        """
        images = len(z) if self._latents_made(1).more else 1
        script = self._script(images, answers=tuple(self._blank_context(images).results()))
        script.latents = z
        stopped = StoppedDecoder(self.vae if decoder is None else decoder, self.device)
        tap = Tap(self.pipe.scheduler, NO_STEPS)
        twin = interrupted(self.pipe, script, scheduler=tap, vae=stopped)
        run(twin, self._arguments(images, NO_CFG, {}))
        return stopped.latents

    def decode(self, z: Tensor, clamp: bool = True) -> Tensor:
        """Latents (N, ...) -> images (N, 3, H, W) in [0, 1], in the latents' dtype. Differentiable.

        clamp=False leaves out the last clamp, which would cut the gradient of every saturated pixel:
        images then stray a little from [0, 1].
        """
        latents = self.vae_latents(z).to(self.vae.dtype)
        pixels = self.vae.decode(latents, return_dict=False)[0]
        if pixels.dim() == 5:  # (N, 3, 1, H, W): a VAE that can do videos
            pixels = pixels[:, :, 0]
        images = pixels.to(z.dtype) * 0.5 + 0.5
        return images.clamp(0, 1) if clamp else images

    def _encoded(
        self, prompts: Sequence[str], cfg: float, negative: Mapping[str, Any]
    ) -> list[Any]:
        """The results of the pipeline's `encode_prompt`, call by call."""
        script = Script(self.device)
        twin = interrupted(self.pipe, script, scheduler=Tap(self.pipe.scheduler, NO_STEPS))
        arguments = self._arguments(len(prompts), cfg, negative) | {"prompt": list(prompts)}
        try:
            with quiet():
                run(twin, arguments)
        except ValueError as error:
            raise ConfigError(
                f"prior {self.name!r} refuses how it is called ({brief(error)}), expected arguments that a "
                f"{type(self.pipe).__name__} takes: correct what is set besides its defaults, "
                f"{self.call or 'which is nothing'}."
            ) from error
        return script.encoded

    def _schedule(self, steps: int) -> tuple[Any, Levels, tuple[Step, ...]]:
        """The pipeline's scheduler with its timesteps set, and what it says of them."""
        if steps not in self._timed:
            highest = self.pipe.scheduler.config.num_train_timesteps
            if not 1 <= steps <= highest:
                raise ConfigError(
                    f"sampling has {steps} steps, expected 1 to {highest}: prior {self.name!r} was trained with "
                    f"{highest} noise levels. Ask for fewer steps."
                )
            tap = Tap(copy.deepcopy(self.pipe.scheduler), None)
            twin = interrupted(self.pipe, self._blank_script(1), scheduler=tap)
            run(twin, self._arguments(1, NO_CFG, {}) | {"num_inference_steps": steps})
            first = tap.inner.timesteps[0].item()
            if first > highest or first == highest and isinstance(first, int):
                raise ConfigError(
                    f"{steps} steps begin at timestep {first}, expected less than {highest}: the scheduler of prior "
                    f"{self.name!r} shifts its steps by {self.pipe.scheduler.config.get('steps_offset', 0)}. Ask for "
                    "fewer steps."
                )
            found = levels(tap.inner)
            self._timed[steps] = tap.inner, found, found.steps(self.device)
        return self._timed[steps]

    def _latents_made(self, images: int) -> Script:
        """What the pipeline prepares for N images: its latents' shape, and what it keeps beside them."""
        if images not in self._made:
            script = self._blank_script(images)
            script.ends_at = "latents"
            twin = interrupted(self.pipe, script, scheduler=Tap(self.pipe.scheduler, NO_STEPS))
            run(twin, self._arguments(images, NO_CFG, {}))
            script.more = script.made[1:] if isinstance(script.made, tuple) else ()
            self._made[images] = script
        return self._made[images]

    def _script(self, images: int, answers: Sequence[Any]) -> Script:
        """A call on N images whose latents are given later."""
        some = self._latents_made(1).more
        more = self._latents_made(images).more if some else ()
        return Script(self.device, answers=answers, more=more)

    def _blank_script(self, images: int) -> Script:
        return Script(self.device, answers=tuple(self._blank_context(images).results()))

    def _blank_context(self, images: int) -> Context:
        """Any context of N images, for calls in which the network does not run."""
        if self._blank is None:
            with torch.no_grad():
                self.encode([""])
        assert self._blank is not None
        return self._blank if images == 1 else self._blank[[0] * images]

    def _arguments(
        self, images: int, cfg: float | None, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of a call on N images, of one step unless told otherwise.

        The generator keeps what the pipeline draws, and nobody uses, away from torch's own.
        """
        return {
            "prompt": [""] * images,
            "generator": torch.Generator(),
            "output_type": "pt",
            "num_inference_steps": 1,
            **self.call,
            **guidance_arguments(self.pipe, cfg),
            **more,
        }


def _first(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made
