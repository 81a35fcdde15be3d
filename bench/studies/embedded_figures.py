"""What the embedded models reach, and where their limits lie, by the judge's features.

python bench/studies embedded_figures --data FOLDER [--weights FOLDER] [--judge FOLDER] [--images 16] [--out FILE]

Rows for each domain, against the judge's reference (real images that no prior saw): real test images; other real
images, which the prior was trained on; the test images through the prior's autoencoder; the plain prior's images,
whose prompts name class and domain. Beside them the autoencoder's PSNR, the judge's shares of the 28 prompts, and how
many images lie closer to a training image than all but CLOSE of the real test images do: much more than CLOSE is
memorised. Two priors compare by one judge alone, which --judge names. Writes bench/results/embedded_figures.json,
samples where --sheet names a file, and with --card what was found into the prior's card.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from result_files import RESULTS
from torch import Tensor
from torch.nn.functional import interpolate

from engine.embedded.captions import styled_prompt
from engine.embedded.judge import Judge, load_judge
from engine.embedded.train.autoencoder import psnr_db
from engine.embedded.train.cards import add_to_card, sheet
from engine.embedded.train.data import CLASSES, DOMAINS, Images, load_pacs
from engine.evaluation.metrics import fid, gaussian, kid
from engine.evaluation.neighbours import neighbours
from engine.files import write_whole
from engine.guidance.move import Unguided
from engine.networks.frozen import fingerprint
from engine.priors import Prior, load_prior
from engine.sampling.noise import ImageNoise
from engine.sampling.stages import drawn, encoded
from engine.settings import Sampling
from engine.settings.sources import EMBEDDED
from engine.types import ImageKey

LASTS = "minutes"
WEIGHTS = EMBEDDED
OUT = RESULTS / "embedded_figures.json"
CLOSE = 0.05
CLOSE_ONES = "close to a training image"
SHOWN = 4
"""Images of each pair on a sheet."""


@torch.no_grad()
def features(judge: Judge, images: Tensor) -> Tensor:
    """The judge's features of images (N, 3, H, W) in [0, 1]."""
    return torch.cat([judge.features(part) for part in images.split(100)])


@torch.no_grad()
def decoded(vae: AutoencoderTiny, images: Tensor, side: int) -> Tensor:
    """Images in [0, 1] through an autoencoder, at a size of `side` x `side`."""
    if images.shape[2:] != (side, side):
        images = interpolate(images, (side, side), mode="bilinear", antialias=True)
    parts = []
    for part in images.split(50):
        latents = vae.encode(part * 2 - 1).latents
        parts.append((vae.decode(latents).sample / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


@torch.no_grad()
def plain_images(prior: Prior, pair: int, number: int) -> Tensor:
    """Plain images of one pair of domain and class, whose prompt names both."""
    domain, label = list(product(DOMAINS, CLASSES))[pair]
    sampling = Sampling()
    context = encoded(prior, [styled_prompt(domain, label)] * number, sampling)
    keys = [ImageKey(pair, index) for index in range(number)]
    noise = ImageNoise(0, keys, prior.latent_shape(1)[1:])
    denoise = prior.denoiser(context, sampling.cfg)
    return prior.decode(drawn(prior, denoise, noise, sampling, Unguided()))


def row(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Distances of a set of features to the reference's."""
    near = neighbours(found, reference)
    return {
        "images": len(found),
        "fid": fid(gaussian(found), gaussian(reference)),
        "kid": kid(found, reference).mean,
        "precision": near.precise.double().mean().item(),
        "recall": near.recalled.double().mean().item(),
        "coverage": near.covered.double().mean().item(),
    }


def nearest(found: Tensor, others: Tensor) -> Tensor:
    """The distance of each row to the nearest of the others."""
    return torch.cdist(found.double(), others.double()).amin(1)


def of_domain(images: Images, number: int) -> Tensor:
    return images.where(images.domains == number).pixels / 255


def autoencoder_rows(
    vae: AutoencoderTiny, side: int, judge: Judge, number: int, test: Images
) -> dict[str, Any]:
    """The real rows of one domain, and what an autoencoder leaves of them."""
    reference = judge.reference[judge.reference_domains == number]
    real = of_domain(test, number)
    return {
        "real test images": row(features(judge, real), reference),
        "real test images through the autoencoder": row(
            features(judge, decoded(vae, real, side)), reference
        ),
        "psnr_db": psnr_db(vae, test.where(test.domains == number), side),
    }


def shares(judge: Judge, images: Tensor, pair: int) -> tuple[float, float]:
    """The judge's shares of images in their class and in their domain."""
    classes, domains = judge(images)
    domain, label = divmod(pair, len(CLASSES))
    return (classes == label).double().mean().item(), (domains == domain).double().mean().item()


def facts_of(
    result: dict[str, dict[str, Any]], pairs: dict[str, tuple[float, float]]
) -> dict[str, str]:
    """Lines for the prior's card."""
    facts, images = {}, sum(rows["plain prior"]["images"] for rows in result.values())
    for what, place in (("class", 0), ("domain", 1)):
        found = {prompt: both[place] for prompt, both in pairs.items()}
        mean, worst = sum(found.values()) / len(found), min(found, key=found.__getitem__)
        facts[f"{what} as in the prompt, by the judge"] = (
            f"{mean:.2f} of {images} images, {found[worst]:.2f} of '{worst}'"
        )
    for name in ("real test images through the autoencoder", "plain prior"):
        facts[f"FID to other real images, {name}"] = ", ".join(
            f"{domain} {rows[name]['fid']:.1f}" for domain, rows in result.items()
        )
    facts["memorised"] = (
        "it was shown few images many times over, and repeats some: share of its images that lie closer to a training "
        "image than "
        f"{1 - CLOSE:.0%} of real test images do, by the judge's features ({CLOSE} if nothing is memorised): "
        + ", ".join(f"{domain} {rows[CLOSE_ONES]:.2f}" for domain, rows in result.items())
    )
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--judge", type=Path, help="folder of another judge than the weights'")
    parser.add_argument("--images", type=int, default=16, help="of each pair; 0 leaves them out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--card", action="store_true", help="add the figures to the prior's card")
    asked = parser.parse_args()
    prior, judge = (
        load_prior(asked.weights / "prior"),
        load_judge(asked.judge or asked.weights / "judge"),
    )
    test, seen = (load_pacs(asked.data / f"pacs64-{part}.parquet") for part in ("test", "prior"))
    result: dict[str, dict[str, Any]] = {}
    pairs: dict[str, tuple[float, float]] = {}
    rows = []
    for number, domain in enumerate(DOMAINS):
        result[domain] = autoencoder_rows(prior.vae, prior.image_size[0], judge, number, test)
        other = features(judge, of_domain(seen, number))
        reference = judge.reference[judge.reference_domains == number]
        result[domain]["other real images"] = row(other, reference)
        if asked.images:
            made = []
            for label in range(len(CLASSES)):
                pair = number * len(CLASSES) + label
                made.append(plain_images(prior, pair, asked.images))
                pairs[styled_prompt(domain, CLASSES[label])] = shares(judge, made[-1], pair)
            rows.append(torch.cat([images[:SHOWN] for images in made]))
            found = features(judge, torch.cat(made))
            limit = nearest(features(judge, of_domain(test, number)), other).quantile(CLOSE)
            result[domain]["plain prior"] = row(found, reference)
            result[domain][CLOSE_ONES] = (nearest(found, other) < limit).double().mean().item()
        print(domain, json.dumps(result[domain]), flush=True)
    write_whole(
        asked.out,
        json.dumps(
            {
                "domains": result,
                "shares": pairs,
                "prior": prior.fingerprint,
                "judge": fingerprint([judge.network]),
            },
            indent=2,
        ).encode()
        + b"\n",
    )
    if pairs:
        facts = facts_of(result, pairs)
        print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
        if asked.card:
            add_to_card(asked.weights / "prior", facts)
    if asked.sheet is not None and rows:
        sheet(rows).save(asked.sheet)
