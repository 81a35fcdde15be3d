"""Train the embedded latent diffusion model: a small CLIP text encoder and a UNet, together, by v-prediction."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from engine.embedded.captions import caption_chances, every_caption
from engine.embedded.train.data import Images, random_views
from engine.embedded.train.loop import Recipe, train
from engine.embedded.train.machine import CPU, Machine
from engine.embedded.train.prior_networks import (
    PriorNetworks,
    adopt,
    build_scheduler,
    build_tokenizer,
    latent_shape,
)
from engine.errors import ConfigError
from engine.files import whole_file

RECIPE = Recipe(steps=60_000, batch=48, learning_rate=5e-4, averaging=0.9995)
VIEWS, SMALLEST = 4, 0.92
"""Views of each image whose latents are kept, and the least share of the side that one shows."""
STRONGEST = 5.0
"""The most that a step weighs in terms of clean latents, where v-prediction's own weight is the signal-to-noise
ratio + 1."""


@torch.no_grad()
def encode_views(
    vae: AutoencoderTiny, images: Images, resolution: int, seed: int, machine: Machine = CPU
) -> Tensor:
    """Latents of some random views of every image, on the device: (VIEWS, N, C, h, w), not yet scaled."""
    vae = machine.place(vae)
    rng = Generator(machine.device).manual_seed(seed)
    rounds = []
    for _ in range(VIEWS):
        views = (
            random_views(pixels.to(machine.device), resolution, rng, SMALLEST)
            for pixels in images.pixels.split(64)
        )
        rounds.append(torch.cat([vae.encode(view * 2 - 1).latents for view in views]))
    return torch.stack(rounds)


def kept_views(
    vae: AutoencoderTiny, images: Images, resolution: int, seed: int, machine: Machine, file: Path
) -> Tensor:
    """The latents of `encode_views` as `file` keeps them, in float16; read from it where they are of these images.

    An encoder of other weights counts as other images. They are rounded on the first call too, so that a run that is
    resumed trains on the same latents.
    """
    made_by = hashlib.sha256(f"{resolution} {seed}".encode())
    for value in (images.pixels, *vae.encoder.state_dict().values()):
        made_by.update(value.cpu().contiguous().numpy().tobytes())
    key = made_by.hexdigest()
    if file.is_file():
        saved = torch.load(file, weights_only=True, map_location=machine.device)
        if saved["key"] == key:
            return saved["latents"].float()
    latents = encode_views(vae, images, resolution, seed, machine).half()
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as opened:
        torch.save({"key": key, "latents": latents}, opened)
    return latents.float()


class Balanced:
    """Draws of images and captions: every pair of domain and class equally often, those of `twice` twice as often."""

    def __init__(
        self, images: Images, captions: list[str], device: str, twice: Sequence[str] = ()
    ) -> None:
        unknown = sorted({*twice} - {*images.domain_names})
        if unknown:
            raise ConfigError(
                f"{unknown[0]} is to be drawn twice as often, expected one of {', '.join(images.domain_names)}: the "
                "data have these domains. Name one."
            )
        once = images.pairs.unique().tolist()
        domains = [images.domain_names[pair // len(images.class_names)] for pair in once]
        found = once + [pair for pair, name in zip(once, domains, strict=True) if name in twice]
        members = [torch.where(images.pairs == pair)[0] for pair in found]
        self.counts = torch.tensor([len(group) for group in members], device=device)
        self.members = pad_sequence(members, batch_first=True).to(device)
        chances = torch.zeros(len(found), len(captions))
        place = {text: number for number, text in enumerate(captions)}
        for row, pair in enumerate(found):
            domain, noun = divmod(pair, len(images.class_names))
            by_caption = caption_chances(images.domain_names[domain], images.class_names[noun])
            for text, chance in by_caption.items():
                chances[row, place[text]] = chance
        self.chances = chances.to(device)

    def draw(self, number: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """The index of `number` images and of a caption for each."""
        first = torch.randint(len(self.counts), (1,), generator=rng, device=rng.device)
        row = (first + torch.arange(number, device=rng.device)) % len(self.counts)
        chance = torch.rand(number, generator=rng, device=rng.device)
        index = self.members[row, (chance * self.counts[row]).long()]
        return index, torch.multinomial(self.chances[row], 1, generator=rng)[:, 0]


def train_prior(
    images: Images,
    vae: AutoencoderTiny,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
    machine: Machine = CPU,
) -> PriorNetworks:
    """Train on latents of `images`, drawn by `Balanced`.

    From new networks, or from the folder `start` of a packed prior as far as its weights fit. Latents are scaled to a
    deviation of 1, but as `start` says where its autoencoder gives the same latents.
    """
    tokenizer = build_tokenizer(images.class_names, images.domain_names)
    texts = every_caption(images.class_names, images.domain_names)
    balanced = Balanced(images, texts, machine.device, recipe.twice)
    latents = kept_views(vae, images, resolution, recipe.seed, machine, folder / "latents.pt")
    model = PriorNetworks(tokenizer, *latent_shape(vae, resolution))
    scale = round(1 / latents.std().item(), 4)
    if start is not None:
        adopt(model, tokenizer, start)
        scale = known_scale(vae, start) or scale
    model.scale.fill_(scale)
    latents = latents * scale
    machine.place(model)
    fast = machine.fast(model)
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ids = ids.to(machine.device)
    scheduler = build_scheduler()
    kept = scheduler.alphas_cumprod.to(machine.device)

    def loss(rng: Generator, _: float) -> Tensor:
        number, place = machine.share(recipe.batch), rng.device
        index, caption = balanced.draw(number, rng)
        clean = latents[torch.randint(0, VIEWS, (number,), generator=rng, device=place), index]
        order = torch.randperm(number, generator=rng, device=place)
        stratum = (order + torch.rand(number, generator=rng, device=place)) / number
        timesteps = (stratum * len(kept)).long()
        noise = torch.randn(clean.shape, generator=rng, device=place)
        signal = kept[timesteps][:, None, None, None]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        error = (fast(noisy, timesteps, ids, caption).float() - velocity).square().mean((1, 2, 3))
        return (error * (STRONGEST * (1 - kept[timesteps])).clamp(max=1)).mean()

    train(model, loss, recipe, folder, machine)
    return model


def known_scale(vae: AutoencoderTiny, start: Path) -> float | None:
    """The scaling factor of a packed prior, if its autoencoder gives the latents of `vae`."""
    other = AutoencoderTiny.from_pretrained(start / "vae", torch_dtype=torch.float32)
    theirs, ours = other.encoder.state_dict(), vae.encoder.state_dict()
    same = theirs.keys() == ours.keys() and all(
        torch.equal(theirs[name], value.cpu()) for name, value in ours.items()
    )
    return other.config.scaling_factor if same else None
