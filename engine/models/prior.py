"""A frozen latent text-to-image prior: its parts, and how they are called.

Every number is computed with the operations of diffusers' `StableDiffusionPipeline` and `DDIMScheduler.step`, in their
order, so that sampling without guidance gives the same bits, where the networks there are frozen too. Where networks
are float16 or bfloat16 and the latents float32, what is computed between them (CFG, the DDIM step, guidance) is
float32.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from engine.errors import ConfigError
from engine.models.decoder import Decoder, decode, downscale
from engine.networks.frozen import fingerprint
from engine.types import Denoise, Prediction, Step


@dataclass(frozen=True, eq=False, kw_only=True)
class Prior:
    """The frozen parts of one diffusers model. `fingerprint` tells it from others in manifests and token files.

    tiny: a small decoder for the same latents, for guidance; final images come from `vae`.
    """

    name: str
    fingerprint: str
    tokenizer: PreTrainedTokenizerBase
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: Decoder
    scheduler: DDIMScheduler
    tiny: AutoencoderTiny | None = None

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, h, w) of one latent."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def image_px(self) -> int:
        """Height of an image, in pixels; its width too where latents are square."""
        return self.latent_shape[1] * downscale(self.vae)

    def describe(self) -> dict[str, str | None]:
        """What images depend on, as JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype),
            "tiny": None if self.tiny is None else fingerprint([self.tiny]),
        }

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> context (N, L, D), padded or cut to the L tokens of the text encoder. Differentiable."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if masked else None
        context = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return context.to(self.dtype)

    def denoiser(self, context: Tensor, null_context: Tensor, cfg: float) -> Denoise:
        """Bind prompts and classifier-free guidance to the UNet.

        context: (N, L, D), one row for each latent. null_context: (N, L, D), or (1, L, D) for all. cfg: the scale s of
        `u + s (c - u)`, combined in the model's own output space; at 1 only the conditional branch runs.
        """
        both = torch.cat([null_context.expand_as(context), context]) if cfg != 1 else context

        def denoise(z: Tensor, step: Step) -> Prediction:
            if cfg == 1:
                output = self._unet_output(z, step, both)
            else:
                null, conditional = self._unet_output(torch.cat([z, z]), step, both).chunk(2)
                output = null + cfg * (conditional - null)
            return self.predict(output, z, step)

        return denoise

    def predict(self, output: Tensor, z: Tensor, step: Step) -> Prediction:
        """What the UNet's output (N, 4, h, w) says of z_t: clean latent and noise (DDIM, arXiv 2010.02502, eq. 12)."""
        alpha = step.alpha
        beta = 1 - alpha
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return Prediction((z - beta**0.5 * output) / alpha**0.5, output)
            case "v_prediction":
                return Prediction(
                    (alpha**0.5) * z - (beta**0.5) * output,
                    (alpha**0.5) * output + (beta**0.5) * z,
                )
            case _:
                return Prediction(output, (z - alpha**0.5 * output) / beta**0.5)

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """latents (N, 4, h, w), scaled to unit variance -> images (N, 3, H, W) in [0, 1]; see `decoder.decode`."""
        return decode(self.vae, latents, clamp)

    def schedule(self, steps: int) -> tuple[Step, ...]:
        """The steps of a DDIM run, timesteps descending, as the prior's own scheduler spaces them.

        Alphas are float32 scalars on the CPU, as in diffusers: square roots of Python floats would round differently.
        """
        config = self.scheduler.config
        highest = config.num_train_timesteps
        if not 1 <= steps <= highest:
            raise ConfigError(
                f"sampling has {steps} steps, expected 1 to {highest}: prior {self.name!r} was trained with "
                f"{highest} noise levels. Ask for fewer steps."
            )
        timer = copy(self.scheduler)
        timer.set_timesteps(steps)
        timesteps = timer.timesteps.tolist()
        if timesteps[0] >= highest:
            raise ConfigError(
                f"{steps} steps begin at timestep {timesteps[0]}, expected less than {highest}: the "
                f"scheduler of prior {self.name!r} shifts its steps by {config.steps_offset}. Ask for fewer "
                "steps."
            )
        alphas, stride = self.scheduler.alphas_cumprod, highest // steps
        return tuple(
            Step(
                index=index,
                total=len(timesteps),
                timestep=timestep,
                alpha=alphas[timestep],
                alpha_next=alphas[timestep - stride]
                if timestep >= stride
                else self.scheduler.final_alpha_cumprod,
            )
            for index, timestep in enumerate(timesteps)
        )

    def _unet_output(self, z: Tensor, step: Step, context: Tensor) -> Tensor:
        """In the dtype of z, whatever the UNet's is."""
        return self._evaluate(z.to(self.dtype), timestep_on(z.device, step), context).to(z.dtype)

    def _evaluate(self, z: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """The UNet's output for tensors of its own dtype; timestep: (), int64."""
        return self.unet(z, timestep, encoder_hidden_states=context, return_dict=False)[0]


def timestep_on(device: torch.device, step: Step) -> Tensor:
    """A step's timestep, () int64, filled in on a device: the host neither copies it there nor waits for it."""
    return torch.full((), step.timestep, dtype=torch.int64, device=device)
