"""Train the embedded autoencoder: `AutoencoderTiny`, levels of equal width; three of them, latents at a quarter of the
side, unless `build` is asked for another shape.

First by squared error alone, which is fast and blurs; then by absolute error, features of a network that knows the
training images' classes, and late a patch critic, as latent diffusion does. Noise on the latents keeps them smooth for
a denoiser. Once a prior has been trained on its latents the encoder is frozen, and the decoder alone trained further.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from engine.embedded.train.data import Images, random_crops, random_index, random_views, resized
from engine.embedded.train.loop import Recipe, train
from engine.embedded.train.machine import CPU, Machine
from engine.embedded.train.perception import Critic, Perception
from engine.embedded.train.prior_networks import latent_shape

WIDTH = 48
RECIPE = Recipe(steps=1600, batch=32, learning_rate=2e-3, averaging=0.995)
"""By squared error, on views at half of the side."""
FINISH = Recipe(steps=6000, batch=24, learning_rate=6e-4, averaging=0.998, seed=1)
"""By likeness, on crops of half of the side and, each WHOLE_EVERY steps, on a third as many whole images."""
DECODER = Recipe(steps=6000, batch=24, learning_rate=4e-4, averaging=0.998, seed=2)
"""Of the decoder alone, when the latents are fixed."""
WHOLE_EVERY = 8
NOISE = 0.05
"""Deviation of the noise on the latents, in their own deviations."""
FEATURES, PULL = 0.25, 1e-4
"""Weights of the features' distance and of the latents' squares, relative to the absolute error's."""
CRITIC, CRITIC_FROM, CRITIC_RATE = 0.02, 0.5, 4e-4
"""The critic's weight, the share of the run after which it is listened to (it learns a tenth earlier), its rate."""


def build(latent_channels: int = 4, levels: int = 3) -> AutoencoderTiny:
    """A new one. Each level but the first halves the side."""
    deep = (2,) * (levels - 1)
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * levels,
        decoder_block_out_channels=(WIDTH,) * levels,
        num_encoder_blocks=(1, *deep),
        num_decoder_blocks=(*deep, 1),
        latent_channels=latent_channels,
    ).to(memory_format=torch.channels_last)


def train_autoencoder(
    images: Images,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    machine: Machine = CPU,
    start: AutoencoderTiny | None = None,
) -> AutoencoderTiny:
    """Squared error on random views, with a light pull of the latents towards unit scale. start: a new one if None."""
    model = machine.place(start or build())
    images = images.to(machine.device)

    def loss(rng: Generator, _: float) -> Tensor:
        chosen = random_index(len(images), recipe.batch, rng)
        views = random_views(images.pixels[chosen], resolution // 2, rng, smallest=0.5) * 2 - 1
        latents = model.encode(views).latents
        error = (model.decode(latents).sample - views).square().mean()
        return error + PULL * latents.square().mean()

    train(model, loss, recipe, folder, machine)
    return model


class Halves(nn.Module):
    """An autoencoder from images to images, so that both halves compile as one. `frozen`: latents stay as they are."""

    def __init__(self, vae: AutoencoderTiny, frozen: bool) -> None:
        super().__init__()
        self.vae, self.frozen = vae, frozen
        vae.encoder.requires_grad_(not frozen)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] and unit noise (N, C, h, w) -> images again, and the noiseless latents."""
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            latents = self.vae.encode(images * 2 - 1).latents
        noisy = latents + NOISE * latents.detach().std() * noise
        return self.vae.decode(noisy).sample / 2 + 0.5, latents


def finish_autoencoder(
    images: Images,
    start: AutoencoderTiny,
    perception: Perception,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    machine: Machine = CPU,
    *,
    decoder_alone: bool = False,
) -> AutoencoderTiny:
    """Train `start` further, in place, by likeness; with `decoder_alone` every latent stays as it is."""
    model = machine.place(start.requires_grad_(True))
    halves = Halves(model, decoder_alone)
    fast = machine.fast(halves)
    perception = machine.place(perception).eval().requires_grad_(False)
    critic = machine.place(Critic())
    teach = torch.optim.Adam(critic.parameters(), CRITIC_RATE, betas=(0.5, 0.9))
    images = images.to(machine.device)

    def loss(rng: Generator, progress: float) -> Tensor:
        whole = rng.initial_seed() % WHOLE_EVERY == 0  # counts with the steps
        number = max(1, recipe.batch // 3) if whole else recipe.batch
        side = resolution if whole else resolution // 2
        chosen = random_index(len(images), number, rng)
        if images.pixels.shape[2] == resolution:
            views = random_crops(images.pixels[chosen], side, rng)
        else:
            views = random_views(images.pixels[chosen], side, rng, smallest=0.5)
        small, channels = latent_shape(model, side)
        shape = (number, channels, small, small)
        noise = torch.randn(shape, generator=rng, device=rng.device)
        again, latents = fast(views, noise)
        value = (again - views).abs().mean() + FEATURES * perception.distance(again, views)
        if not decoder_alone:
            value = value + PULL * latents.square().mean()
        if progress > CRITIC_FROM - 0.1:
            critic_loss = relu(1 - critic(views)).mean() + relu(1 + critic(again.detach())).mean()
            teach.zero_grad(set_to_none=True)
            critic_loss.backward()
            teach.step()
        if progress > CRITIC_FROM:
            value = value - CRITIC * critic(again).mean()
        return value

    train(halves, loss, recipe, folder, machine, {"critic": critic, "teach": teach})
    return model.eval()


@torch.no_grad()
def psnr_db(model: AutoencoderTiny, images: Images, resolution: int) -> float:
    """Mean over images of the peak signal-to-noise ratio, in dB, on whole images in [0, 1]."""
    ratios = []
    for pixels in images.pixels.split(100):
        views = resized(pixels.to(model.device), resolution)
        again = (model.decode(model.encode(views * 2 - 1).latents).sample / 2 + 0.5).clamp(0, 1)
        ratios.append(-10 * (again - views).square().mean((1, 2, 3)).log10())
    return torch.cat(ratios).mean().item()
