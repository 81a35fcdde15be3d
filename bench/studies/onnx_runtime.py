"""ONNX Runtime beside eager torch on the embedded models: the gradient, a guided step, a plain one, and `generate`.

python bench/studies onnx_runtime [--device cpu] [--threads 1 2] [--rounds 7] [--batch 28] [--cache FOLDER]

Contenders take turns. Each ratio is the median over the rounds of ONNX Runtime's time over eager torch's of the same
round; under 1, ONNX Runtime is faster. Exports are not timed: they happen once for a cache.
"""

import argparse
import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from contenders import Run
from result_files import RESULTS, write_result
from timing import median_ratios

from engine.classifiers import load_classifier
from engine.datasets.run_record import versions
from engine.methods.drawing import Drawing
from engine.methods.runtime import default_cache
from engine.priors import load_prior
from engine.runners.asking import asked
from engine.settings import Alignment, Sampling
from engine.types import ImageKey

LASTS = "minutes"
RESULT = RESULTS / "onnx_runtime.json"
ENGINES = ("torch", "onnx")
STEPS = 4


def parts(drawing: Drawing, batch: int) -> dict[str, Run]:
    """What is timed of one engine, by name."""
    keys = [ImageKey(number % 7, number // 7) for number in range(batch)]
    prior, guidance = drawing.prior, drawing.guidance(keys)
    step = prior.schedule(30)[10]
    z = torch.randn(
        batch, *prior.latent_shape(1)[1:], generator=torch.Generator().manual_seed(0)
    ).to(prior.device)
    with torch.no_grad():
        denoise = prior.denoiser(prior.encode(["a dog"] * batch, ""), drawing.sampling.cfg)

    def guided() -> None:
        with torch.no_grad():
            guidance.move(denoise(z, step).clean, step)

    def plain() -> None:
        with torch.no_grad():
            denoise(z, step)

    def gradient() -> None:
        with torch.no_grad():
            guidance.move(z, step)

    return {
        "gradient": gradient,
        "plain step": plain,
        "guided step": guided,
        f"generate, {STEPS} steps": partial(drawing.make, keys),
    }


def measured(device: str, threads: int, rounds: int, batch: int, cache: Path) -> dict[str, object]:
    """Seconds and ratios by part on a device, with so many threads."""
    torch.set_num_threads(threads)  # sessions take theirs from torch when they are made
    classifier, prior = (
        load_classifier("embedded:cartoon", device=device),
        load_prior(device=device),
    )
    drawings = {
        engine: asked(
            classifier,
            prior,
            images_per_class=-(-batch // 7),
            alignment=Alignment(),
            sampling=Sampling(steps=STEPS, batch=batch),
            runtime=engine,
            onnx_cache=cache if engine == "onnx" else None,
        ).prepare()
        for engine in ENGINES
    }
    runs = {engine: parts(drawing, batch) for engine, drawing in drawings.items()}
    return {
        part: median_ratios(
            {engine: runs[engine][part] for engine in ENGINES}, "torch", prior.device.type, rounds
        )
        for part in runs["torch"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device such as cuda:0")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=28)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    result = {
        "settings": {
            "device": chosen.device,
            "batch": chosen.batch,
            "rounds": chosen.rounds,
            "classifier": "embedded:cartoon",
        },
        "versions": {**versions(), "onnxruntime": version("onnxruntime-gpu")},
        "threads": {},
    }
    for threads in chosen.threads:
        result["threads"][threads] = measured(
            chosen.device, threads, chosen.rounds, chosen.batch, chosen.cache
        )
        print(threads, json.dumps(result["threads"][threads]), flush=True)
        write_result(chosen.out, result)
