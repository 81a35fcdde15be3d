"""Measure the embedded models against what is claimed of them."""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from engine.embedded.captions import styled_prompt
from engine.embedded.judge import Judge, load_judge
from engine.embedded.train.autoencoder import psnr_db
from engine.embedded.train.data import CLASSES, DOMAINS, Images, load_pacs, resized
from engine.errors import ConfigError
from engine.events import SILENT, Events
from engine.guidance.move import Unguided
from engine.networks.frozen import fingerprint
from engine.priors import Prior, load_prior
from engine.sampling.noise import ImageNoise
from engine.sampling.stages import drawn, encoded
from engine.settings import Sampling
from engine.types import ImageKey

GOALS = {
    "judge_class_accuracy": 0.85,
    "judge_domain_accuracy": 0.95,
    "autoencoder_psnr_db": 24.0,
    "prior_class_share": 0.90,
    "prior_domain_share": 0.95,
}
TEST_FILE = "pacs64-test.parquet"
PAIRS = tuple(product(DOMAINS, CLASSES))


def check_embedded(
    data: str | Path | None = None,
    images_per_prompt: int = 8,
    seed: int = 0,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Measures by the names of GOALS; those on real images are None without `data`, a folder with the test file.

    The prior's shares are over all pairs of domain and class ('an art painting of a dog'), as the judge sees them.
    """
    if images_per_prompt < 1:
        raise ConfigError(
            f"images_per_prompt is {images_per_prompt}, expected at least 1: ask for a positive number."
        )
    prior, judge = load_prior("embedded"), load_judge()
    measures: dict[str, float | None] = dict.fromkeys(GOALS)
    if data is not None:
        path = Path(data) / TEST_FILE
        if not path.is_file():
            raise ConfigError(
                f"there is no {path}, expected the test part of PACS: give its folder, or leave `data` out."
            )
        measures |= _on_real_images(prior, judge, load_pacs(path))
    shares = _on_prompts(prior, judge, images_per_prompt, seed, events)
    measures["prior_class_share"] = sum(right for right, _ in shares.values()) / len(shares)
    measures["prior_domain_share"] = sum(right for _, right in shares.values()) / len(shares)
    return {
        "measures": measures,
        "goals": GOALS,
        "images_per_prompt": images_per_prompt,
        "seed": seed,
        "sampling": asdict(Sampling()),
        "prior": prior.fingerprint,
        "judge": fingerprint([judge.network]),
        "prompts": {
            prompt: {"class": kind, "domain": domain} for prompt, (kind, domain) in shares.items()
        },
    }


def _on_real_images(prior: Prior, judge: Judge, images: Images) -> dict[str, float]:
    found = [judge(resized(part, judge.resolution)) for part in images.pixels.split(200)]
    classes, domains = (torch.cat(part) for part in zip(*found, strict=True))
    return {
        "judge_class_accuracy": (classes == images.classes).float().mean().item(),
        "judge_domain_accuracy": (domains == images.domains).float().mean().item(),
        "autoencoder_psnr_db": psnr_db(prior.vae, images, prior.image_size[0]),
    }


@torch.no_grad()
def _on_prompts(
    prior: Prior, judge: Judge, number: int, seed: int, events: Events
) -> dict[str, tuple[float, float]]:
    """The judge's shares (class, domain) for each pair's prompt."""
    shares = {}
    sampling = Sampling()
    with events.task("prompts", len(PAIRS)) as task:
        for place, (domain, label) in enumerate(PAIRS):
            prompt = styled_prompt(domain, label)
            keys = [ImageKey(place, index) for index in range(number)]
            noise = ImageNoise(seed, keys, prior.latent_shape(1)[1:])
            denoise = prior.denoiser(encoded(prior, [prompt] * number, sampling), sampling.cfg)
            z = drawn(prior, denoise, noise, sampling, Unguided())
            classes, domains = judge(prior.decode(z))
            right = classes == judge.classes.index(label), domains == judge.domains.index(domain)
            shares[prompt] = (right[0].float().mean().item(), right[1].float().mean().item())
            task.progress(1, prompt)
    return shares
