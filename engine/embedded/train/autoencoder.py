"""Train the embedded autoencoder: `AutoencoderTiny`, three levels of equal width, latents at a quarter of the size."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor

from engine.embedded.train.data import Images, random_views, resized
from engine.embedded.train.loop import Recipe, train

WIDTH = 48
RECIPE = Recipe(steps=1600, batch=32, learning_rate=2e-3, averaging=0.995)


def build() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=4,
    ).to(memory_format=torch.channels_last)


def train_autoencoder(
    images: Images, resolution: int, recipe: Recipe, folder: Path
) -> AutoencoderTiny:
    """Squared error on random views, with a light pull of the latents towards unit scale."""
    model = build()

    def loss(rng: Generator, _: float) -> Tensor:
        chosen = torch.randint(0, len(images), (recipe.batch,), generator=rng)
        views = random_views(images.pixels[chosen], resolution, rng, smallest=0.5) * 2 - 1
        latents = model.encode(views).latents
        error = (model.decode(latents).sample - views).square().mean()
        return error + 1e-4 * latents.square().mean()

    train(model, loss, recipe, folder)
    return model


@torch.no_grad()
def psnr_db(model: AutoencoderTiny, images: Images, resolution: int) -> float:
    """Mean over images of the peak signal-to-noise ratio, in dB, on whole images in [0, 1]."""
    ratios = []
    for pixels in images.pixels.split(100):
        views = resized(pixels, resolution)
        again = (model.decode(model.encode(views * 2 - 1).latents).sample / 2 + 0.5).clamp(0, 1)
        ratios.append(-10 * (again - views).square().mean((1, 2, 3)).log10())
    return torch.cat(ratios).mean().item()
