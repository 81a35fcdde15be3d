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
from studies.evidence import BEGUN, METRICS, Method, draw, evaluated, flops_per_image, images_of
from studies.rows import rows_by_domain

SEED = 800
"""Images of this seed are for this study alone."""
RAW_SCALE = 360.0
"""Makes raw steps as long in sum as the base's relative ones, in batches of 28: the geometric mean over the four
embedded classifiers, which alone want 240 to 540. In smaller batches an image's gradient is larger."""
BASE = Alignment(stop=0.8)
"""Where the study began, at CFG 7.5; what it found, 90 % of the schedule and CFG 4, is the default."""
RESULT = RESULTS / "guidance_study.json"


def guided(alignment: Alignment = BASE, **sampling: object) -> Method:
    return Method(alignment, sampling=replace(BEGUN, **sampling))


MIDDLE = {"cfg_start": 0.2, "cfg_stop": 0.8}
"""The interval of CFG that loses least (arXiv 2404.07724)."""
CHEAPER = {
    "all of it": Method(Alignment()),
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
VARIANTS = {
    "base": guided(),
    "plain": Method(None, sampling=BEGUN),
    "base in 20 steps": guided(steps=20),  # no more compute than plain
    "plain in 43 steps": Method(
        None, sampling=replace(BEGUN, steps=43)
    ),  # as much compute as the base
    "paper": Method(Alignment.paper(), sampling=Sampling.paper()),
    "paper, step of 0.05": Method(Alignment.paper(0.05), sampling=Sampling.paper()),
    "paper, step of 0.01": Method(Alignment.paper(0.01), sampling=Sampling.paper()),
    "z_t": guided(replace(BASE, target="noisy")),
    "raw step": guided(replace(BASE, step="raw", scale=RAW_SCALE)),
    "raw step, half as long": guided(replace(BASE, step="raw", scale=RAW_SCALE / 2)),
    "single-image statistics": guided(replace(BASE, statistics="image")),
    "no class weight": guided(replace(BASE, class_weight=0.0)),
    "class weight 1": guided(replace(BASE, class_weight=1.0)),
    "class weight 3": guided(replace(BASE, class_weight=3.0)),
    "scale 0.2": guided(replace(BASE, scale=0.2)),
    "scale 0.8": guided(replace(BASE, scale=0.8)),
    "CFG 2": guided(cfg=2.0),
    "CFG 4": guided(cfg=4.0),
    "CFG 12": guided(cfg=12.0),
    "whole schedule": guided(replace(BASE, stop=1.0)),
    "90 % of the schedule": guided(replace(BASE, stop=0.9)),
    "90 % of the schedule, CFG 4": guided(replace(BASE, stop=0.9), cfg=4.0),
    "whole schedule, CFG 4": guided(replace(BASE, stop=1.0), cfg=4.0),
    "whole schedule, scale 0.2": guided(replace(BASE, stop=1.0, scale=0.2)),
    "middle of the schedule": guided(replace(BASE, start=0.3, stop=0.7)),
    "first half": guided(replace(BASE, stop=0.5)),
    "second half": guided(replace(BASE, start=0.5, stop=1.0)),
    "equal layers": guided(replace(BASE, layers="uniform")),
    "first layer x10": guided(replace(BASE, layers="first")),
    "norm l2": guided(replace(BASE, norm="l2")),
    "no renewed noise": guided(eta=0.0),
    "full decoder": guided(replace(BASE, decoder="full")),
    "batch of 56": guided(batch=56),
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
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--domains", nargs="+", choices=judge.domains, default=judge.domains)
    parser.add_argument("--images", type=int, default=8, help="images of each class")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/guidance_study"),
        help="where the data set folders are kept",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    settings = {"images_per_class": chosen.images, "seed": SEED}
    result = rows_by_domain(chosen.out, prior, settings, VARIANTS, judge.domains)
    for name, domain in product(chosen.variants, chosen.domains):
        variant, key = VARIANTS[name], f"{name}/{domain}"
        row = result.kept(key, {"settings": variant.guidance})
        if "metrics" in row:
            continue
        began = time.perf_counter()
        classifier = load_classifier(f"embedded:{domain}", device=prior.device)
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
