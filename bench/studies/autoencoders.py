"""Autoencoders of two shapes, trained from scratch for as long each: how well they keep real images, and the compute of
a denoiser of their latents.

python bench/studies autoencoders --data FOLDER --work FOLDER [--minutes 15]

Each learns by the recipe of the embedded autoencoder (`engine.embedded.train`), in bfloat16 where the processor
multiplies it: SQUARED of the time by squared error, the rest by likeness, as one perception network sees it. Real test
images through each are then compared with the judge's reference, as are the same images themselves. The denoiser is the
embedded prior's UNet for latents of that shape. Stages that are done are not run again; one that was cut begins again.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from result_files import RESULTS, hardware

from engine.embedded.judge import load_judge
from engine.embedded.train import autoencoder
from engine.embedded.train.data import DOMAINS, Images, load_pacs
from engine.embedded.train.loop import STATE, read_checkpoint
from engine.embedded.train.machine import Machine
from engine.embedded.train.perception import RECIPE as PERCEPTION
from engine.embedded.train.perception import Perception, train_perception
from engine.embedded.train.prior_networks import TEXT_WIDTH, build_unet, latent_shape
from engine.embedded.train.stages import averaged
from engine.memory.count import counting
from engine.networks.frozen import fingerprint, multiplies_bfloat16
from studies.embedded_figures import autoencoder_rows
from studies.options import several
from studies.rows import Rows

LASTS = "40 minutes"
SHAPES = {"4 channels, a quarter of the side": (4, 3), "16 channels, an eighth": (16, 4)}
"""Channels of the latents and levels of the networks."""
RESOLUTION = 64
SQUARED = 0.3
WORDS = 8
"""Of the prompt that the denoiser's compute is counted with."""
ENDLESS = 10**9
"""Steps of a run that its time ends."""


def stage(folder: Path, train: Callable[[Path], object]) -> Path:
    """Run a stage unless it is done. What a cut one left is thrown away, so that none has more time."""
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        train(folder)
        done.touch()
    return folder


def perception(images: Images, folder: Path, machine: Machine) -> Perception:
    """The network that says how alike two images are; it takes its recipe's steps, which both shapes share."""
    stage(
        folder,
        lambda at: train_perception(images, RESOLUTION, PERCEPTION, at, machine),
    )
    seen: Perception = averaged(Perception(int(images.pairs.max()) + 1), folder)
    return seen


def trained(
    shape: tuple[int, int], images: Images, work: Path, machine: Machine, minutes: float
) -> tuple[AutoencoderTiny, dict[str, int]]:
    """An autoencoder of a shape, and the updates of each of its stages."""
    torch.manual_seed(0)
    channels, levels = shape
    model = autoencoder.build(channels, levels)
    seen = perception(images, work / "perception", machine)
    folder = work / f"{channels}-channels-{levels}-levels-{minutes:g}-minutes"

    def timed(share: float) -> Machine:
        return replace(machine, seconds=60 * minutes * share)

    squared = stage(
        folder / "squared",
        lambda at: autoencoder.train_autoencoder(
            images,
            RESOLUTION,
            replace(autoencoder.RECIPE, steps=ENDLESS),
            at,
            timed(SQUARED),
            model,
        ),
    )
    averaged(model, squared)
    likeness = stage(
        folder / "likeness",
        lambda at: autoencoder.finish_autoencoder(
            images,
            model,
            seen,
            RESOLUTION,
            replace(autoencoder.FINISH, steps=ENDLESS),
            at,
            timed(1 - SQUARED),
        ),
    )
    averaged(autoencoder.Halves(model, frozen=True), likeness)
    updates = {at.name: int(read_checkpoint(at / STATE)["step"]) for at in (squared, likeness)}
    return model.eval(), updates


@torch.no_grad()
def denoiser_flops(vae: AutoencoderTiny) -> int:
    """Of one pass of the embedded prior's UNet for one image's latents."""
    side, channels = latent_shape(vae, RESOLUTION)
    unet = build_unet(side, channels)
    with counting() as count:
        unet(
            torch.zeros(1, channels, side, side),
            torch.zeros(1),
            encoder_hidden_states=torch.zeros(1, WORDS, TEXT_WIDTH),
        )
    return count.flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with pacs64-prior and -test"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training for each shape")
    several(parser, "--shapes", SHAPES)
    parser.add_argument("--out", type=Path, default=RESULTS / "autoencoders.json")
    chosen = parser.parse_args()
    judge, machine = load_judge(), Machine(bfloat16=multiplies_bfloat16())
    settings = {
        "minutes": chosen.minutes,
        "judge": fingerprint([judge.network]),
        "resolution": RESOLUTION,
        "bfloat16": machine.bfloat16,
        "hardware": hardware("cpu"),
    }
    result = Rows(chosen.out, settings, "cpu", SHAPES)
    images, test = (load_pacs(chosen.data / f"pacs64-{part}.parquet") for part in ("prior", "test"))
    for name in chosen.shapes:
        if "domains" in result.kept(name):
            continue
        vae, updates = trained(SHAPES[name], images, chosen.work, machine, chosen.minutes)
        figures = partial(autoencoder_rows, vae, RESOLUTION, judge)
        row: dict[str, Any] = {
            "updates": updates,
            "parameters": sum(value.numel() for value in vae.parameters()),
            "denoiser_flops": denoiser_flops(vae),
            "domains": {domain: figures(number, test) for number, domain in enumerate(DOMAINS)},
        }
        result.add(name, row)
        print(
            name,
            {domain: round(found["psnr_db"], 1) for domain, found in row["domains"].items()},
            flush=True,
        )
