"""The stages of the recipe, in order: which recipe, data and earlier stage each one needs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import nn

from engine.embedded.train import autoencoder, classifiers, perception, prior, tiny_decoder
from engine.embedded.train.data import Images, load_pacs, load_photos
from engine.embedded.train.loop import STATE, Recipe, read_checkpoint
from engine.embedded.train.machine import CPU, Machine
from engine.errors import ConfigError

RECIPES = {
    "perception": perception.RECIPE,
    "autoencoder": autoencoder.RECIPE,
    "finish": autoencoder.FINISH,
    "prior": prior.RECIPE,
    "decoder": autoencoder.DECODER,
    "tiny": tiny_decoder.RECIPE,
    "judge": classifiers.JUDGE_RECIPE,
    "classifiers": classifiers.BASE_RECIPE,
    "classifiers-convnext": classifiers.BASE_RECIPE,
}
SHARES = {
    "perception": 0.04,
    "autoencoder": 0.06,
    "finish": 0.14,
    "prior": 0.44,
    "decoder": 0.08,
    "tiny": 0.04,
    "judge": 0.08,
    "classifiers": 0.06,
    "classifiers-convnext": 0.06,
}
"""How `all` splits a budget of time."""
GPU_WIDTH = 8
"""How many times the batch of a CPU a GPU takes."""


@dataclass(frozen=True)
class Job:
    """What a command asked for. recipes: by stage. start: a packed prior to start from."""

    data: Path
    work: Path
    resolution: int
    recipes: dict[str, Recipe]
    start: Path | None = None
    cifar: bool = False
    machine: Machine = CPU

    @cached_property
    def for_prior(self) -> Images:
        """What prior and autoencoder are trained on: PACS's own part, or the first half of each class of CIFAR-10's."""
        if self.cifar:
            return load_photos(self.data / "cifar10-train.parquet", 0.5)
        return load_pacs(self.data / "pacs64-prior.parquet")

    @cached_property
    def for_classifiers(self) -> Images:
        if self.cifar:
            raise ConfigError(
                "there is no recipe for classifiers of CIFAR-10, expected a stage of its prior: third parties have "
                "trained the classifiers. Leave this stage out."
            )
        return load_pacs(self.data / "pacs64-train.parquet")

    @property
    def for_judge(self) -> Images:
        return self.for_classifiers + self.for_prior

    def common(self, stage: str) -> tuple[int, Recipe, Path]:
        """Resolution, recipe and folder of a stage."""
        return self.resolution, self.recipes[stage], self.work / stage


def wider(recipe: Recipe, factor: int) -> Recipe:
    """The recipe in as many times larger batches, for as many samples in all and with averages over as many.

    The rate grows with the fourth root only, as it is high already for the autoencoder and the classifiers.
    """
    return replace(
        recipe,
        batch=recipe.batch * factor,
        learning_rate=recipe.learning_rate * factor**0.25,
        averaging=recipe.averaging**factor,
        steps=max(1, recipe.steps // factor),
    )


def averaged(model: nn.Module, folder: Path) -> Any:
    """The model with the averaged weights of a stage's checkpoint, frozen."""
    model.load_state_dict(checkpoint(folder)["average"])
    return model.eval().requires_grad_(False)


def checkpoint(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    if not file.is_file():
        raise ConfigError(
            f"there is no {file}, expected a trained model: run the stage {folder.name!r} first, or leave out with "
            "--models what is not there."
        )
    return read_checkpoint(file)


def autoencoder_in(folder: Path) -> AutoencoderTiny:
    """The autoencoder of a packed prior."""
    if not (folder / "vae").is_dir():
        raise ConfigError(
            f"there is no {folder / 'vae'}, expected a prior in diffusers format: name a folder that `pack` wrote."
        )
    return AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()


def autoencoder_of(job: Job, *stages: str) -> AutoencoderTiny:
    """The autoencoder of the latest of these stages that has a checkpoint, else that of the prior to start from."""
    for stage in stages:
        if (job.work / stage / STATE).is_file():
            model = autoencoder.build()
            if stage == "autoencoder":
                return averaged(model, job.work / stage)
            averaged(autoencoder.Halves(model, frozen=True), job.work / stage)
            return model
    if job.start is not None:
        return autoencoder_in(job.start)
    checkpoint(job.work / stages[-1])
    raise AssertionError("a missing checkpoint is an error")


LATENTS = ("finish", "autoencoder")
"""The stages that decide what latents are, the later first."""
IMAGES = ("decoder", *LATENTS)
"""The stages that decide how latents are decoded."""


def run_perception(job: Job) -> None:
    perception.train_perception(job.for_prior, *job.common("perception"), job.machine)


def run_autoencoder(job: Job) -> None:
    job.machine.alone("autoencoder")
    autoencoder.train_autoencoder(job.for_prior, *job.common("autoencoder"), job.machine)


def run_finish(job: Job) -> None:
    _by_likeness(job, "finish", "autoencoder")


def run_decoder(job: Job) -> None:
    _by_likeness(job, "decoder", *LATENTS)


def _by_likeness(job: Job, stage: str, *before: str) -> None:
    job.machine.alone(stage)
    autoencoder.finish_autoencoder(
        job.for_prior,
        autoencoder_of(job, *before),
        seen_by(job),
        *job.common(stage),
        job.machine,
        decoder_alone=stage == "decoder",
    )


def seen_by(job: Job) -> perception.Perception:
    pairs = int(job.for_prior.pairs.max()) + 1
    model: perception.Perception = averaged(perception.Perception(pairs), job.work / "perception")
    return model


def run_prior(job: Job) -> nn.Module:
    vae = autoencoder_of(job, *LATENTS)
    return prior.train_prior(
        job.for_prior, vae, *job.common("prior"), start=job.start, machine=job.machine
    )


def run_tiny(job: Job) -> AutoencoderTiny:
    job.machine.alone("tiny")
    return tiny_decoder.train_tiny_decoder(
        job.for_prior, autoencoder_of(job, *IMAGES), *job.common("tiny"), job.machine
    )


def run_judge(job: Job) -> nn.Module:
    return classifiers.train_judge(job.for_judge, *job.common("judge"), job.machine)


def run_classifiers(job: Job, kind: str = "") -> dict[str, nn.Module]:
    return classifiers.train_domain_classifiers(
        job.for_classifiers, *job.common(f"classifiers{kind}"), job.machine, kind
    )


STAGES: dict[str, Callable[[Job], object]] = {
    "perception": run_perception,
    "autoencoder": run_autoencoder,
    "finish": run_finish,
    "prior": run_prior,
    "decoder": run_decoder,
    "tiny": run_tiny,
    "judge": run_judge,
    "classifiers": run_classifiers,
    "classifiers-convnext": lambda job: run_classifiers(job, "-convnext"),
}
