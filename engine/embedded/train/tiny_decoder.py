"""Distil the embedded autoencoder's decoder into a narrow one, through which guidance looks.

The teacher is the decoder that makes the final images. Its pupil reads what guidance will show it: latents of images,
and the vaguer ones that an early step predicts, for which means of two latents and a little noise stand here.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from engine.embedded.train.data import Images, random_index, random_views
from engine.embedded.train.loop import Recipe, train
from engine.embedded.train.machine import CPU, Machine

WIDTH = 16
RECIPE = Recipe(steps=1800, batch=32, learning_rate=3e-3, averaging=0.995)
BLENDED = 0.5
"""Share of the latents that are means of two; the weight of the second is uniform in [0, 0.5]."""
NOISE = 0.3
"""The most noise that is added, in deviations of a latent."""


def build_narrow(vae: AutoencoderTiny) -> AutoencoderTiny:
    """The autoencoder's levels at WIDTH channels, for the same latents. Its encoder is never used, and the least."""
    levels = len(vae.config.block_out_channels)
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * levels,
        decoder_block_out_channels=(WIDTH,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=vae.config.num_decoder_blocks,
        latent_channels=vae.config.latent_channels,
        scaling_factor=vae.config.scaling_factor,
    ).to(memory_format=torch.channels_last)


def as_guidance_sees(latents: Tensor, rng: Generator) -> Tensor:
    """Latents (N, 4, h, w) of images -> some as they are, some blended with another's, all with a little noise."""
    number = len(latents)
    place = latents.device
    blended, weight, noise = torch.rand(3, number, 1, 1, 1, generator=rng, device=place)
    weight = torch.where(blended < BLENDED, weight / 2, 0)
    others = latents[torch.randperm(number, generator=rng, device=place)]
    added = torch.randn(latents.shape, generator=rng, device=place)
    return torch.lerp(latents, others, weight) + NOISE * noise.square() * latents.std() * added


def train_tiny_decoder(
    images: Images,
    vae: AutoencoderTiny,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    machine: Machine = CPU,
) -> AutoencoderTiny:
    """Squared error to the teacher's images, in [0, 1]; the teacher is frozen."""
    vae = machine.place(vae.eval().requires_grad_(False))
    model = machine.place(build_narrow(vae))
    images = images.to(machine.device)

    def loss(rng: Generator, _: float) -> Tensor:
        chosen = random_index(len(images), recipe.batch, rng)
        with torch.no_grad():
            views = random_views(images.pixels[chosen], resolution, rng, smallest=0.5) * 2 - 1
            latents = as_guidance_sees(vae.encode(views).latents.float(), rng)
            wanted = vae.decode(latents).sample
        return mse_loss(model.decode(latents).sample, wanted) / 4

    model.encoder.requires_grad_(False)
    train(model, loss, recipe, folder, machine)
    return model


@torch.no_grad()
def likeness_db(
    model: AutoencoderTiny, vae: AutoencoderTiny, images: Images, resolution: int
) -> float:
    """PSNR of the pupil's images against the teacher's, over latents as they are, in dB."""
    errors = []
    rng = Generator().manual_seed(0)
    for pixels in images.pixels[:500].split(100):
        latents = vae.encode(random_views(pixels, resolution, rng, smallest=1.0) * 2 - 1).latents
        error = (model.decode(latents).sample - vae.decode(latents).sample) / 2
        errors.append(error.square().mean((1, 2, 3)))
    return -10 * torch.cat(errors).mean().log10().item()
