"""The study behind the defaults of guidance: variants that differ from BASE in one choice, or in their compute.

python bench/studies guidance_study [--variants ...] [--domains ...] [--images 8]

Every variant draws the same seeds for each embedded classifier, and one evaluator compares them with the real images of
its domain, as in evidence.py, whose own seeds are left alone. The variants that say most come first. A run that
is cut goes on where it stopped. Table: `make tables`.
"""

import argparse
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import Judge, load_judge
from engine.evaluation.shares import shares
from engine.priors import Prior, load_prior
from engine.settings import Alignment, Polish, Sampling
from studies.evidence import METRICS, Method, draw, evaluated, flops_per_image, images_of
from studies.options import several
from studies.rows import DTYPE, rows_by_domain

LASTS = "an hour"
SEED = 800
"""Images of this seed are for this study alone."""
BASE = Alignment(scale=0.15, statistics="batch", class_weight=0.3)
"""Today's defaults, which variants differ from."""
RESULT = RESULTS / "guidance_study.json"


def guided(alignment: Alignment = BASE, **sampling: object) -> Method:
    return Method(alignment, sampling=replace(Sampling(), **sampling))


MIDDLE = {"cfg_start": 0.2, "cfg_stop": 0.8}
"""CFG in the middle of the schedule alone (arXiv 2404.07724), as `Sampling.fast` has it."""
CHEAPER = {
    "plain": Method(None),
    "CFG in the middle": Method(Alignment(), sampling=Sampling(**MIDDLE)),
    "plain, CFG in the middle": Method(None, sampling=Sampling(**MIDDLE)),
    "every 2nd step": Method(Alignment(stride=2)),
    "every 2nd step from a third on": Method(Alignment(stride=2, stride_from=1 / 3)),
    "every 3rd step from a third on": Method(Alignment(stride=3, stride_from=1 / 3)),
    "every 2nd step, CFG in the middle": Method(Alignment(stride=2), sampling=Sampling(**MIDDLE)),
    "every 2nd step from a third on, CFG in the middle": Method(
        Alignment(stride=2, stride_from=1 / 3), sampling=Sampling(**MIDDLE)
    ),
}
"""Today's defaults, and less of their compute."""
POLISHED = {
    f"polished by {steps} moves of {scale}": Method(
        Alignment(polish=Polish(steps=steps, scale=scale))
    )
    for steps, scale in ((4, 0.004), (8, 0.004), (8, 0.008))
}
ALONE = replace(BASE, statistics="image")
"""Each image by its own moments."""
VARIANTS = {
    "plain": Method(None),
    "base": guided(),
    "batch of 4": guided(batch=4),
    "single images": guided(ALONE),
    "single images, class weight 1": guided(replace(ALONE, class_weight=1.0)),
    "single images, class weight 3": guided(replace(ALONE, class_weight=3.0)),
    "single images, class weight 3, scale 0.1": guided(replace(ALONE, class_weight=3.0, scale=0.1)),
    "single images, class weight 3, scale 0.4": guided(replace(ALONE, class_weight=3.0, scale=0.4)),
    "scale 0.2": guided(replace(BASE, scale=0.2)),
    "scale 0.1": guided(replace(BASE, scale=0.1)),
    "scale 0.4": guided(replace(BASE, scale=0.4)),
    "class weight 1": guided(replace(BASE, class_weight=1.0)),
    "paper": Method(Alignment.paper(), sampling=Sampling.paper()),
    "paper, step of 0.05": Method(Alignment.paper(0.05), sampling=Sampling.paper()),
    "paper, step of 0.01": Method(Alignment.paper(0.01), sampling=Sampling.paper()),
    "CFG 2": guided(cfg=2.0),
    "CFG 7.5": guided(cfg=7.5),
    "whole schedule": guided(replace(BASE, stop=1.0)),
    "80 % of the schedule": guided(replace(BASE, stop=0.8)),
    "first half": guided(replace(BASE, stop=0.5)),
    "second half": guided(replace(BASE, start=0.5)),
    "batch of 14": guided(batch=14),
    "batch of 56": guided(batch=56),
    "no class weight": guided(replace(BASE, class_weight=0.0)),
    "z_t": guided(replace(BASE, target="noisy")),
    "norm l2": guided(replace(BASE, norm="l2")),
    "equal layers": guided(replace(BASE, layers="uniform")),
    "layers by channels": guided(replace(BASE, layers="channels")),
    "first layer x10": guided(replace(BASE, layers="first")),
    "no renewed noise": guided(eta=0.0),
    "full decoder": guided(replace(BASE, decoder="full")),
    "base in 20 steps": guided(steps=20),
    **{f"today's, {name}": method for name, method in (CHEAPER | POLISHED).items()},
}


def measured(
    variant: Method, folder: Path, classifier: Classifier, prior: Prior, judge: Judge, domain: str
) -> dict:
    """What the evaluator, the judge and the teacher say of a folder, and what an image of it costs."""
    return {
        **evaluated(folder, domain, METRICS),
        "shares": asdict(shares(images_of(folder), judge, domain)),
        "flops_per_image": flops_per_image(variant, classifier, prior, domain),
    }


def main() -> None:
    judge = load_judge()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--variants", VARIANTS)
    several(parser, "--domains", judge.domains)
    parser.add_argument("--images", type=int, default=8, help="images of each class")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/guidance_study"),
        help="where the data set folders are kept",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded", dtype=DTYPE)
    settings = {"images_per_class": chosen.images, "seed": SEED}
    result = rows_by_domain(chosen.out, prior, settings, VARIANTS, judge.domains)
    for name, domain in product(chosen.variants, chosen.domains):
        variant, key = VARIANTS[name], f"{name}/{domain}"
        row = result.kept(key, {"settings": variant.guidance})
        if "metrics" in row:
            continue
        began = time.perf_counter()
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        root = chosen.work / prior.fingerprint
        folder, plain = (root / place / name.replace(" ", "_") for place in (domain, "plain"))
        draw(variant, classifier, prior, domain, chosen.images, SEED, folder, plain)
        row |= measured(variant, folder, classifier, prior, judge, domain)
        result.add(key, row)
        print(
            key,
            f"FID {row['metrics']['fid']['value']:.2f}",
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
