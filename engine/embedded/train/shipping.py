"""Write the models that the work folder holds as the weights that ship."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.embedded.judge import JudgeNet
from engine.embedded.train import classifiers, pack, pack_classifiers, prior_networks, tiny_decoder
from engine.embedded.train.cards import add_to_card
from engine.embedded.train.data import DOMAINS, load_pacs
from engine.embedded.train.loop import STATE, Recipe, in_rows, read_checkpoint
from engine.embedded.train.stages import (
    IMAGES,
    Job,
    autoencoder_in,
    autoencoder_of,
    averaged,
    checkpoint,
)
from engine.files import whole_file
from engine.priors.tiny_sources import TINY

LIGHT = ("step", "loss", "recipe", "processes", "local_steps", "bfloat16")
"""What a shed checkpoint keeps besides its averaged weights."""
PACKED = ("prior", "tiny", "classifiers", "classifiers-convnext", "judge")


def pack_all(job: Job, out: Path, models: tuple[str, ...]) -> None:
    """Pack each of the named models, with the averaged weights of its checkpoint."""
    if "prior" in models:
        pack_prior(job, out / "prior")
    if "tiny" in models:
        pack_tiny(job, out / "prior")
    test = job.data / "pacs64-test.parquet"
    of_test = {"test images": load_pacs(test)} if test.is_file() else {}
    for kind in classifiers.KINDS:
        if f"classifiers{kind}" in models:
            parts = {"training images": job.for_classifiers} | of_test
            pack_domains(job, out, kind, parts)
    if "judge" in models:
        network: JudgeNet = averaged(classifiers.build_judge(job.for_judge), job.work / "judge")
        pack_classifiers.pack_judge(
            network,
            job.for_classifiers,
            job.resolution,
            as_done(job.recipes["judge"], job.work / "judge"),
            out / "judge",
            {"training images": job.for_judge} | of_test,
        )


def pack_prior(job: Job, folder: Path) -> None:
    """The prior with the autoencoder's latest decoder."""
    images, vae = job.for_prior, autoencoder_of(job, *IMAGES)
    tokenizer = prior_networks.build_tokenizer(images.class_names, images.domain_names)
    networks: prior_networks.PriorNetworks = averaged(
        prior_networks.PriorNetworks(tokenizer, *prior_networks.latent_shape(vae, job.resolution)),
        job.work / "prior",
    )
    vae.register_to_config(scaling_factor=round(networks.scale.item(), 4))
    saved = checkpoint(job.work / "prior")
    own = as_done(job.recipes["prior"], job.work / "prior")
    taught = {
        stage: as_done(job.recipes[stage], job.work / stage)
        for stage in reversed(IMAGES)
        if (job.work / stage / STATE).is_file()
    }
    pack.pack_prior(
        vae,
        networks,
        images,
        job.resolution,
        own,
        folder,
        job.start,
        job.machine.device,
        taught,
        processes_of(saved),
        saved.get("loss"),
    )
    if job.cifar:
        add_to_card(
            folder, {"data set": "CIFAR-10 (Krizhevsky 2009), the first half of each class"}
        )


def pack_tiny(job: Job, packed: Path) -> None:
    """The narrow decoder, into the packed prior, whose autoencoder it was taught by."""
    vae = autoencoder_in(packed if (packed / "vae").is_dir() else job.start or packed)
    narrow = averaged(tiny_decoder.build_narrow(vae), job.work / "tiny")
    own = as_done(job.recipes["tiny"], job.work / "tiny")
    pack.pack_tiny(narrow, vae, job.for_prior, job.resolution, own, packed / TINY)


def pack_domains(job: Job, out: Path, kind: str, parts: pack_classifiers.Parts) -> None:
    """The classifiers of one architecture, one for each domain."""
    stage = f"classifiers{kind}"
    own = as_done(job.recipes[stage], job.work / stage / "base")
    write = pack_classifiers.pack_convnext if kind else pack_classifiers.pack_classifier
    for number, domain in enumerate(DOMAINS):
        of_domain = job.for_classifiers.where(job.for_classifiers.domains == number)
        model: nn.Module = averaged(
            classifiers.KINDS[kind](len(of_domain.class_names)),
            classifiers.domain_folder(job.work / stage, domain),
        )
        classifiers.restate(model, of_domain, job.resolution)
        write(model, domain, job.resolution, own, out / f"classifier-{domain}{kind}", parts)


def as_done(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that a checkpoint names, with the steps that it has seen; a checkpoint without one had the given one.

    Packing trains nothing, and its own options say nothing of how a checkpoint came about.
    """
    saved = checkpoint(folder)
    named = Recipe(**saved["recipe"]) if "recipe" in saved else recipe
    return replace(named, steps=saved["step"])


def processes_of(saved: dict[str, Any]) -> str:
    """Which processes a checkpoint says it was trained by, and in which precision, in words."""
    number, alone = saved.get("processes", 1), saved.get("local_steps", 1)
    shared = "share the gradients of each step"
    if alone > 1:
        shared = f"average their weights every {alone} steps"
    mixed = "; networks in bfloat16, their weights in float32" if saved.get("bfloat16") else ""
    return ("one" if number == 1 else f"{number}, which {shared}") + mixed


def shed(work: Path, out: Path, bits: int = 16) -> list[Path]:
    """Copy each checkpoint of a work folder without what is large: its averaged weights alone, in half precision.

    An eighth of the bytes, from which a run goes on with a new optimizer and a new critic, and which `pack` reads as it
    reads others. Vectors stay in float32: running variances may leave float16's range. bits: 8 keeps matrices as rows
    of 8 bits, for a run that goes on; what is packed should come from 16.
    """
    written = []
    for file in sorted(work.rglob(STATE)):
        saved = read_checkpoint(file)
        light = {name: saved[name] for name in LIGHT if name in saved}
        light["average"] = {
            name: (in_rows(value) if bits == 8 else value.half())
            if value.is_floating_point() and value.dim() > 1
            else value
            for name, value in saved["average"].items()
        }
        copy = out / file.relative_to(work)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(copy) as opened:
            torch.save(light, opened)
        written.append(copy)
    return written
