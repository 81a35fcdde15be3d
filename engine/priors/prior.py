"""A diffusers pipeline as a prior: each method is one call of the pipeline, ended at a seam.

Sampling through it gives the pipeline's own images, but for what its scheduler does beyond first-order
steps. For Stable Diffusion with DDIM these are the pipeline's bits.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.networks.frozen import fingerprint
from engine.priors.arguments import check_call, defaults_of
from engine.priors.calls import Calls
from engine.priors.cfg import cfg_is_affine, guidance_arguments, negative_argument
from engine.priors.context import Context
from engine.priors.differences import warn_of_differences
from engine.priors.interface import Component, Denoise, TextEncoder
from engine.priors.marks import marked
from engine.priors.roles import (
    DECODER,
    TINY,
    check_pipeline,
    components_of,
    text_encoders_of,
)
from engine.priors.steps import Step, check_scheduler
from engine.priors.vae import decoded


class Prior:
    """A frozen pipeline. It shares the networks it is given and changes neither them nor the pipeline.

    Args:
        pipe: A text-to-image pipeline whose networks are frozen and in evaluation mode.
        name: What messages and records call it.
        tiny: A small decoder of the same latents, for guidance; None for none.
        call: Arguments of the pipeline's call that differ from its defaults, such as its height; to these
            come those of `arguments.DEFAULTS`.
        mark: The fingerprint; computed if None.
        device: Where it computes; where the denoiser is if None. Networks may rest elsewhere (see `resting`).
        quantise: How the linear layers of its denoiser and text encoders are quantised.
        adapter: The objective of the adapter of `learn_lora` in its weights: 'guidance' or 'class'; "" for none.

    Raises:
        ModelError: The pipeline or its scheduler is of a kind that cannot be a prior.
        ConfigError: The call has an argument that the pipeline does not take, or that is the engine's.
    """

    def __init__(
        self,
        pipe: Any,
        name: str,
        *,
        tiny: nn.Module | None = None,
        call: Mapping[str, Any] | None = None,
        mark: str | None = None,
        device: torch.device | None = None,
        quantise: str = "none",
        adapter: str = "",
    ) -> None:
        check_pipeline(pipe)
        check_scheduler(pipe.scheduler)
        check_call(pipe, call or {})
        self.pipe = pipe
        self.name = name
        self.tiny = tiny
        self.call = defaults_of(pipe) | dict(call or {})
        self.quantise = quantise
        self.adapter = adapter
        self.fingerprint = marked(pipe) if mark is None else mark
        self._calls = Calls(pipe, name, self.call, device)

    @property
    def network(self) -> Any:
        """The denoiser."""
        return getattr(self.pipe, self._calls.network_name)

    @property
    def vae(self) -> Any:
        """The decoder of final images."""
        return getattr(self.pipe, DECODER)

    @property
    def device(self) -> torch.device:
        return self._calls.device

    @property
    def dtype(self) -> torch.dtype:
        return self._calls.dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self._calls.prepared(1).size

    @property
    def cfg_is_affine(self) -> bool:
        """Whether classifier-free guidance may be combined from its two branches' clean latents.

        If not, the pipeline rescales what it gives, and only a step with both branches is the pipeline's own.
        """
        return cfg_is_affine(self.pipe, self.call)

    def describe(self) -> dict[str, Any]:
        """What images depend on, as JSON values."""
        facts: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype),
            "tiny": None if self.tiny is None else fingerprint([self.tiny]),
        }
        facts |= {"call": self.call} if self.call else {}
        return facts | ({"quantise": self.quantise} if self.quantise != "none" else {})

    def components(self) -> tuple[Component, ...]:
        """The networks, each once."""
        return components_of(self.pipe, self.tiny)

    def text_encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders that tokens can be added to."""
        return text_encoders_of(self.pipe)

    def replaced(self, **parts: Any) -> "Prior":
        """A twin with some components or tokenizers replaced, by name; `tiny` is the tiny decoder."""
        tiny = parts.pop(TINY, self.tiny)
        pipe = copy.copy(self.pipe)
        pipe.__dict__.update(parts)  # past its __setattr__, which registers what it is given
        device = None if self._calls.network_name in parts else self.device
        return self._twin(pipe, tiny, self.call, device)

    def called_with(self, **call: Any) -> "Prior":
        """A twin with other arguments of the pipeline's call, such as height and width."""
        return self._twin(self.pipe, self.tiny, self.call | call, self.device)

    def _twin(
        self,
        pipe: Any,
        tiny: nn.Module | None,
        call: Mapping[str, Any],
        device: torch.device | None,
    ) -> "Prior":
        return Prior(
            pipe,
            self.name,
            tiny=tiny,
            call=call,
            mark=self.fingerprint,
            device=device,
            quantise=self.quantise,
            adapter=self.adapter,
        )

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Context:
        """The context of N prompts, in the caller's gradient mode.

        Args:
            prompts: N texts.
            negative: The prompt of CFG's other branch, which serves all and gets no gradient; None for
                a context without it, for denoisers with a CFG of 1.
        """
        return self._calls.encoded(prompts, negative)

    def check_sampling(self, cfg: float, negative: str = "") -> None:
        """Raise ConfigError for a scale of CFG, or a negative prompt, that the pipeline does not take.

        Warn (PriorWarning) where images will not be those of the pipeline's own call.
        """
        guidance_arguments(self.pipe, cfg)
        negative_argument(self.pipe, negative, 1)
        warn_of_differences(self.pipe, cfg)

    def schedule(self, steps: int) -> tuple[Step, ...]:
        """The steps of a run, from noise to image, as the pipeline asks its own scheduler for them.

        Raises ConfigError for fewer than 1, or more than the prior has noise levels.
        """
        return self._calls.timed(steps).steps

    def latent_shape(self, images: int) -> torch.Size:
        """The shape of the latents of N images."""
        return torch.Size((images, *self._calls.prepared(1).shape[1:]))

    def noise(self, generators: Sequence[torch.Generator], steps: int) -> Tensor:
        """Latents (N, ...) that a run of `steps` starts from, each drawn by its own CPU generator."""
        shape = self.latent_shape(1)[1:]
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return drawn.to(self.device) * self._calls.timed(steps).levels.start

    def denoiser(self, context: Context, cfg: float | None = None) -> Denoise:
        """Bind N prompts and classifier-free guidance.

        Args:
            context: Of N prompts, one per latent; with a negative prompt where cfg is not 1.
            cfg: The scale s of `u + s (c - u)`; at 1 only the conditional branch runs. None for the
                pipeline's default.
        """
        return self._calls.denoiser(context, cfg)

    def vae_latents(self, z: Tensor, decoder: nn.Module | None = None) -> Tensor:
        """Latents (N, ...) as the pipeline hands them to its VAE, unpacked and unscaled.

        decoder: another decoder, to whose scale they are brought; None for the VAE. Differentiable.
        """
        return self._calls.vae_latents(z, self.vae if decoder is None else decoder)

    def decode(self, z: Tensor, clamp: bool = True) -> Tensor:
        """Latents (N, ...) -> images (N, 3, H, W) in [0, 1], in the latents' dtype. Differentiable.

        clamp=False leaves out the last clamp, which would cut the gradient of every saturated pixel:
        images then stray a little from [0, 1].
        """
        pixels = decoded(self.vae, self.vae_latents(z).to(self.vae.dtype))
        images = pixels.to(z.dtype) * 0.5 + 0.5
        return images.clamp(0, 1) if clamp else images
