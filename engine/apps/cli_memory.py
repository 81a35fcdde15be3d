"""`ddis plan` and `ddis profile`: a run's memory before it starts, a step's time."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.apps.options import (
    add_alignment,
    add_config,
    add_graphs,
    add_memory,
    add_models,
    alignment_of,
    load_models,
    sampling_of,
)
from engine.apps.progress import Progress
from engine.errors import ConfigError
from engine.settings import Sampling

if TYPE_CHECKING:
    from engine.memory.plan import Plan

PLAN_HELP = "how a run fits into a memory budget, told without loading the prior's weights"
PROFILE_HELP = "where the time of a guided step goes"
PLANNED, PROFILED = ("steps", "cfg", "batch"), ("cfg",)
"""The settings of sampling that a plan and a profile depend on."""
SAVINGS = {
    "text_encoder": "the text encoder is on the device only while it works",
    "vae": "the VAE is on the device only while it works",
    "guidance": "guidance computes its decoder's activations anew in backward",
    "cat": "token learning computes activations anew in backward",
}


def add_plan(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_memory(parser)
    add_graphs(parser)
    parser.add_argument(
        "--image-px", type=int, help="size of the images (default: the prior's own)"
    )
    add_alignment(parser)
    add_config(parser, Sampling(), only=PLANNED)


def add_profile(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    parser.add_argument("--images", type=int, default=4, help="images in the step (default: 4)")
    parser.add_argument(
        "--trace", type=Path, help="also write a Chrome trace of the step here (.json)"
    )
    add_alignment(parser)
    add_config(parser, Sampling(), only=PROFILED)


def run_plan(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    import torch

    from engine.classifiers import load_classifier
    from engine.memory.budget import in_words
    from engine.memory.plan import device_of, plan
    from engine.models import load_prior
    from engine.networks.frozen import named_dtype

    device = device_of(None, chosen.memory, chosen.device)
    dtype: torch.dtype = named_dtype(chosen.dtype, device)
    prior = load_prior(
        chosen.prior,
        variant=chosen.variant,
        revision=chosen.revision,
        device="meta",
        dtype=dtype,
        tiny=chosen.tiny_decoder,
    )
    classifier = load_classifier(
        chosen.classifier,
        architecture=chosen.architecture,
        labels=chosen.labels,
        device="cpu",
        dtype=dtype,
    )
    sampling, alignment = sampling_of(chosen), alignment_of(chosen)
    planned = plan(
        prior,
        classifier,
        chosen.memory,
        chosen.image_px,
        batch=sampling.batch,
        alignment=alignment,
        sampling=sampling,
        device=device,
        attention=chosen.attention,
        graphs=not chosen.no_graphs,
    )
    rows = [
        [
            phase,
            str(planned.micro_batch[phase]) if planned.micro_batch[phase] else "does not fit",
            in_words(peak),
        ]
        for phase, peak in planned.peak_bytes.items()
    ]
    progress.table(
        f"{planned.prior} with {planned.classifier} in {planned.dtype} on {planned.device}: {planned.batch} images of "
        f"{planned.image_px} px within {in_words(planned.budget_bytes)}",
        ["phase", "images at once", "predicted peak"],
        rows,
    )
    for name in (*planned.offload, *planned.checkpoint):
        progress.say(SAVINGS[name])
    if planned.tile:
        progress.say(
            f"the full VAE decodes in tiles of {planned.tile} latents, whose borders are seen a little"
        )
    seen = (
        f"{planned.decoder} decoder at {planned.decode_px} px"
        if planned.decode_px
        else "nothing: no guidance"
    )
    progress.say(
        f"attention: {planned.attention}; guidance sees through: {seen}\n{_speed(planned)}\n"
        f"largest batch in one piece: {planned.largest_batch}; smallest budget: {in_words(planned.smallest_bytes)}"
    )
    return planned.to_json()


def _speed(planned: "Plan") -> str:
    """The layout of the networks, and whether graphs are replayed."""
    layout = " and ".join(planned.channels_last) or "no network"
    graphs = (
        f"not used, as {planned.eager_because}" if planned.eager_because else "of UNet and guidance"
    )
    return f"channels_last: {layout}; CUDA graphs: {graphs}"


def run_profile(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from engine.memory.profile import profile_step

    alignment = alignment_of(chosen)
    if alignment is None:
        raise ConfigError(
            "--alignment is none, expected one to profile: a plain step has no guidance. Leave it out."
        )
    classifier, prior = load_models(chosen)
    found = profile_step(
        prior, classifier, chosen.images, alignment, sampling_of(chosen), chosen.trace
    )
    whole = found.milliseconds["step"]
    rows = [[name, f"{ms:.1f}", f"{ms / whole:.0%}"] for name, ms in found.milliseconds.items()]
    progress.table(
        f"One guided step of {found.images} images on {found.device}",
        ["part", "ms", "of step"],
        rows,
    )
    progress.say(
        f"a guided step takes {found.guided_ms:.1f} ms, a plain one {found.plain_ms:.1f}: {found.time_ratio:.2f} times "
        f"the time, {found.flops_ratio:.2f} times the FLOPs"
    )
    if found.trace:
        progress.say(f"trace: {found.trace} (open it in chrome://tracing or ui.perfetto.dev)")
    return found.to_json()
