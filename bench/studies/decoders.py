"""What a guidance gradient at half the image's size is worth: the ways to get it, against the full-size decoder's.

python bench/studies decoders [--images 4] [--domains photo sketch ...]

"truncated" leaves out a decoder's last upsampling; the distilled one is the embedded prior's own tiny decoder, at the
full size. The embedded prior stands for a large one: its images are the full size, and its classifiers are made to read
half of that, as a 224 px classifier needs 256 of Stable Diffusion's 512. Cosines are of dL/dz, over a batch, at clean
latents z_0|t that the guided sampler itself predicts in some of its 30 steps; shares are the judge's, of images whose
guidance looked through each way and which the full decoder then made. FLOPs and times: decoding and its gradient by the
latents. Writes bench/results/decoders.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from methods import guided
from result_files import RESULTS, environment, write_result
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import Judge, load_judge
from engine.evaluation.shares import shares
from engine.guidance.decoder import GuidanceDecoder, guidance_decoder
from engine.guidance.decoder_stages import tiny_stages
from engine.guidance.gradient import gradient
from engine.guidance.objective import Objective
from engine.methods.drawing import Drawing
from engine.priors import Prior, load_prior
from engine.runners.asking import asked
from engine.settings import Alignment

LASTS = "minutes"
FIRST_SEED = 100
STEPS = (0, 8, 16, 23)
REFERENCE = "full size"
POOLED = "truncated, pooled kernels"
MODES = ("area", "bilinear", "bicubic")
NARROW = "distilled, a third as wide"
GENERATED = (
    REFERENCE,
    NARROW,
    "latents by area, variance kept",
    "truncated, kernels as they were",
    POOLED,
)
"""The ways that also guide whole images."""
RESULT = RESULTS / "decoders.json"


def ways(prior: Prior) -> dict[str, GuidanceDecoder]:
    """Every way to decode for guidance, by name."""
    full, tiny = (
        guidance_decoder(prior, "full"),
        guidance_decoder(prior, "tiny", prior.image_size[0] // 2),
    )
    layers = list(prior.vae.decoder.layers)
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Upsample))
    head, tail = tiny_stages(prior.vae)[0], tiny_stages(prior.vae)[-1]
    skipped = (head, nn.Sequential(*layers[:last], *layers[last + 1 :]), tail)
    found = {REFERENCE: full}
    for mode in MODES:
        for kept in (False, True):
            name = f"latents by {mode}{', variance kept' if kept else ''}"
            stages = (resampling(mode, kept), *tiny_stages(prior.vae))
            found[name] = replace(tiny, stages=stages)
    return found | {"truncated, kernels as they were": replace(tiny, stages=skipped), POOLED: tiny}


def resampling(mode: str, keep_variance: bool) -> Callable[[Tensor], Tensor]:
    """Latents (N, 4, h, w) at half the size; if asked for, with the deviation of each map as it was."""

    def half(z: Tensor) -> Tensor:
        options = {} if mode == "area" else {"antialias": True}
        small = F.interpolate(z, scale_factor=0.5, mode=mode, **options)
        if keep_variance:
            small = small * (
                z.detach().std((2, 3), keepdim=True) / small.detach().std((2, 3), keepdim=True)
            )
        return small

    return half


def reading(classifier: Classifier, px: int) -> Classifier:
    """The same network, made to read images squashed to `px`."""
    return replace(
        classifier, preprocess=replace(classifier.preprocess, crop=(px, px), resize=(px, px))
    )


def compared(
    drawing: Drawing, latents: dict[int, Tensor], found: dict[str, GuidanceDecoder]
) -> dict[str, dict[str, list[float]]]:
    """Of each way: the gradient's cosine to the full-size one, the loss over its, the image's rms error, by step.

    latents: the clean ones that the steps of the first group predicted.
    """
    classes = torch.tensor([key.class_index for key in drawing.groups()[0]])

    def descended(decoder: GuidanceDecoder, z: Tensor) -> tuple[Tensor, Tensor]:
        return Objective(drawing.classifier, Alignment(), decoder).value_and_grad(z, classes)

    rows: dict[str, dict[str, list[float]]] = {}
    for step in STEPS:
        z = latents[step]
        value, reference = descended(found[REFERENCE], z)
        seen = drawing.classifier.preprocess(found[REFERENCE](z))
        for name, decoder in found.items():
            own_value, own = descended(decoder, z)
            row = rows.setdefault(name, {"cosine": [], "loss_ratio": [], "rms_error": []})
            row["cosine"].append(F.cosine_similarity(own.flatten(), reference.flatten(), 0).item())
            row["loss_ratio"].append((own_value / value).item())
            error = drawing.classifier.preprocess(decoder(z)) - seen
            row["rms_error"].append(error.square().mean().sqrt().item())
    return rows


def flops(decoder: Callable[[Tensor], Tensor], latents: Tensor) -> int:
    """Floating point operations of decoding and of its gradient by the latents."""
    leaf = latents.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        decoder(leaf).sum().backward()
    return counter.get_total_flops()


def times_ms(
    found: dict[str, GuidanceDecoder], latents: Tensor, rounds: int = 9
) -> dict[str, float]:
    """Median ms of each way's decoding and gradient, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, decoder in found.items():
            start = time.perf_counter()
            gradient(latents, lambda z, decoder=decoder: decoder(z).square().mean((1, 2, 3)))
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in taken.items()}


def stable_diffusion_flops() -> dict[str, float]:
    """TFLOPs an image of 512 px, on Stable Diffusion's and TAESD's architectures without weights."""
    large = load_prior("arch:sd-2.1-base", device="meta")
    latents = torch.empty(large.latent_shape(1), device="meta")
    named = {
        "full VAE, 512 px": guidance_decoder(large, "full"),
        "TAESD, 512 px": guidance_decoder(large, "tiny"),
        "TAESD truncated, 256 px": guidance_decoder(large, "tiny", 256),
    }
    return {name: round(flops(decoder, latents) / 1e12, 4) for name, decoder in named.items()}


def generated(
    drawing: Drawing, judge: Judge, domain: str
) -> tuple[dict[str, float], dict[int, Tensor]]:
    """Shares of drawn images, and the clean latents that the steps of its first group predict."""
    latents: dict[int, Tensor] = {}
    start = time.perf_counter()
    first, *others = drawing.groups()
    made = drawing.make(first, on_clean=lambda step, clean: latents.update({step.index: clean}))
    made += [sample for group in others for sample in drawing.make(group)]
    return asdict(shares(made, judge, domain)) | {
        "seconds": round(time.perf_counter() - start, 1)
    }, latents


def summary(per_domain: list[dict[str, list[float]]]) -> dict[str, object]:
    """Means over domains and steps of what `compared` found of one way."""
    means = {
        f"mean_{measure}": round(mean(x for domain in per_domain for x in domain[measure]), 4)
        for measure in ("cosine", "loss_ratio", "rms_error")
    }
    by_step = [
        round(mean(values), 4) for values in zip(*(d["cosine"] for d in per_domain), strict=True)
    ]
    least = min(x for domain in per_domain for x in domain["cosine"])
    return {**means, "least_cosine": round(least, 4), "mean_cosine_by_step": by_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=4, help="images of each class and domain")
    parser.add_argument(
        "--domains", nargs="+", default=["photo", "art_painting", "cartoon", "sketch"]
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded", device="cpu"), load_judge()
    narrow, prior = prior, prior.replaced(tiny=prior.vae)
    found = ways(prior) | {NARROW: guidance_decoder(narrow, "tiny")}
    cells: dict[str, dict[str, dict[str, float]]] = {}
    per_way: dict[str, list[dict[str, list[float]]]] = {}
    for domain in chosen.domains:
        classifier = reading(
            load_classifier(f"embedded:{domain}", device="cpu"), prior.image_size[0] // 2
        )
        for name in (*GENERATED, "no guidance"):
            alignment = Alignment() if name in found else None
            wanted = asked(
                classifier, prior, None, chosen.images, seed=FIRST_SEED, **guided(alignment)
            )
            drawing = replace(wanted.prepare(), decoder=found.get(name))
            cells.setdefault(name, {})[domain], latents = generated(drawing, judge, domain)
            print(domain, name, cells[name][domain], flush=True)
            if name == REFERENCE:
                for way, row in compared(drawing, latents, found).items():
                    per_way.setdefault(way, []).append(row)
    latents = torch.randn(28, *prior.latent_shape(1)[1:])
    ms, counted = (
        times_ms(found, latents),
        {name: flops(way, latents) for name, way in found.items()},
    )
    rows = {
        name: summary(per_way[name])
        | {
            "flops": round(counted[name] / counted[REFERENCE], 4),
            "time": round(ms[name] / ms[REFERENCE], 3),
        }
        for name in found
    }
    result = {
        "settings": {
            "prior": prior.fingerprint,
            "domains": chosen.domains,
            "steps": STEPS,
            "seed": FIRST_SEED,
            "images_per_class": chosen.images,
        },
        "ways": rows,
        "generated": cells,
        "stable_diffusion_tflops": stable_diffusion_flops(),
        "environment": environment("cpu"),
    }
    write_result(chosen.out, result)
    print(
        json.dumps(
            {"ways": rows, "stable_diffusion_tflops": result["stable_diffusion_tflops"]}, indent=1
        )
    )
