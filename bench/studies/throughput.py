"""Images per minute of `generate` on the embedded prior by method, dtype and runtime, and what guidance costs.

python bench/studies throughput [--only methods ways quality demo] [--images 28] [--steps 8 30] [--quick]

methods: the plain prior, the paper's guidance, ours, in float32. ways: of the plain prior, ours, `--preset fast` and an
adapter of guidance, what computes the networks. The first run of each warms up, compiles and exports, and is not
counted; of `--repeats` the median counts. quality: the FID of each domain, drawn in each dtype with the same seeds.
demo: time and memory of `ddis demo`, as a process of its own. Run it on a quiet machine. --quick: two images, two
steps, once, to see that it works.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from methods import METHODS, draws
from result_files import RESULTS, environment, read_result, write_result

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import load_judge
from engine.memory.profile import profile_step
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling
from engine.settings.methods import DDIS, Plain
from studies.evidence import evaluated
from studies.options import several

LASTS = "minutes"
RESULT = RESULTS / "throughput.json"
PARTS = ("methods", "ways", "quality", "demo")
WAYS = {
    "float32": ("float32", "torch", False),
    "bfloat16": ("bfloat16", "torch", False),
    "float32, compiled": ("float32", "torch", True),
    "bfloat16, compiled": ("bfloat16", "torch", True),
    "float32, ONNX Runtime": ("float32", "onnx", False),
}
"""dtype, `Request.runtime`, and whether `torch.compile` makes the denoiser."""
DRAWN = {
    "plain": Plain(),
    "ours": DDIS(),
    "fast": DDIS.fast(),
    "adapter": Plain(sampling=Sampling(cfg=1.0)),
}
"""What each way draws with. An adapter of guidance is merged into weights, which cost what they did: it draws as the
prior alone does in one pass."""
SEED = 1700
"""Images of this seed are for the part `quality` alone."""


def per_minute(
    drawing: Mapping[str, Callable[[int], Any]], images: int, repeats: int
) -> dict[str, float]:
    """Of whole runs of `images` images, prompts and final decoding included.

    They take turns, so that a machine that is slow for a while is slow for all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in drawing}
    for seed, (name, draw) in product(range(1 + repeats), drawing.items()):
        began = time.perf_counter()
        draw(seed)[-1].image.sum().item()  # waits for a GPU
        seconds[name].append(time.perf_counter() - began)
    return {name: round(60 * images / median(took[1:]), 2) for name, took in seconds.items()}


def models(dtype: str, domain: str = "cartoon") -> tuple[Classifier, Prior]:
    prior = load_prior("embedded", dtype=dtype)
    return load_classifier(f"embedded:{domain}", device=prior.device, dtype=dtype), prior


def by_method(chosen: argparse.Namespace) -> dict[str, Any]:
    """Images a minute by method and number of steps, and a guided step's time over a plain one's."""
    classifier, prior = models("float32")
    drawing = {
        f"{method}/{steps}": draws(classifier, prior, chosen.images, steps, *METHODS[method])
        for method, steps in product(METHODS, chosen.steps)
    }
    rates = per_minute(drawing, chosen.images, chosen.repeats)
    ratios = {
        method: profile_step(
            prior, classifier, chosen.images, alignment, sampling, repeats=chosen.repeats
        ).time_ratio
        for method, (alignment, sampling) in METHODS.items()
        if alignment is not None
    }
    return {"images_per_minute": rates, "guided_over_plain_step": ratios}


def by_way(chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Images a minute of runs of the most steps, by what computes the networks."""
    found: dict[str, dict[str, float]] = {}
    steps = max(chosen.steps)
    for way, (dtype, runtime, is_compiled) in WAYS.items():
        if is_compiled and chosen.quick:  # takes a minute
            continue
        classifier, prior = models(dtype)
        if is_compiled:
            prior.network.compile()
        drawing = {
            name: draws(
                *(classifier, prior, chosen.images, steps),
                *(method.alignment, method.sampling),
                runtime=runtime,
            )
            for name, method in DRAWN.items()
        }
        found[way] = per_minute(drawing, chosen.images, chosen.repeats)
        print(way, found[way], flush=True)
    return found


def quality(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the evaluator says of 8 images of each class (--quick: 2), by dtype and domain."""
    found: dict[str, dict[str, Any]] = {}
    images = 2 if chosen.quick else 8
    for dtype in ("float32", "bfloat16"):
        found[dtype] = {}
        for domain in load_judge().domains[: 1 if chosen.quick else None]:
            classifier, prior = models(dtype, domain)
            with tempfile.TemporaryDirectory() as folder:
                settings = {"images_per_class": images, "seed": SEED, "out": folder}
                steps = Sampling(steps=max(chosen.steps))
                for _ in generate(classifier, prior, sampling=steps, **settings):
                    pass
                found[dtype][domain] = evaluated(Path(folder), domain)
            print(dtype, domain, found[dtype][domain]["metrics"]["fid"], flush=True)
    return found


def demo() -> dict[str, float]:
    """Seconds of `ddis demo` from its start to its end, and the peak of its resident memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "engine", "demo", "--quiet", "--out", folder]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)  # not getrusage: that is of all children so far
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(
                f"`ddis demo` ended with status {status}, expected 0: run it by itself."
            )
    return {"seconds": round(seconds, 1), "peak_bytes": used.ru_maxrss * 1024}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    several(parser, "--only", PARTS)
    parser.add_argument("--images", type=int, default=28)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 30])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.images, chosen.steps, chosen.repeats = 2, [2], 1
    prior = load_prior("embedded")
    settings = {
        "images": chosen.images,
        "steps": chosen.steps,
        "repeats": chosen.repeats,
        "alignment": asdict(Alignment()),
        "prior": prior.fingerprint,
    }
    result = read_result(chosen.out)
    if result.get("settings") != json.loads(json.dumps(settings)):
        result = {"settings": settings}
    result["environment"] = environment(prior.device)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "methods": lambda: by_method(chosen),
        "ways": lambda: {"ways": by_way(chosen)},
        "quality": lambda: {"quality": quality(chosen)},
        "demo": lambda: {"demo": demo()},
    }
    for part in chosen.only:
        result |= works[part]()
        write_result(chosen.out, result)
    print(json.dumps(result, indent=1))
