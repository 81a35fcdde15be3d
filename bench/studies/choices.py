"""Settings of guidance, chosen by what students learn from the images, beside other figures and their compute.

python bench/studies choices --data FOLDER [--ways default "scale 0.2" ...] [--domains ...] [--images 51]

FID reads moments of features, which guidance equalises, so it flatters long moves; a student does not. Students learn
from the images of each way, of the same seeds, and are measured on pacs64-prior: real images of the domain that the
classifier has not seen. The prior has, which may favour short moves: pacs64-test is left for the figures. A run that is
cut goes on where it stopped. Table: `make tables`.
"""

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from methods import guided
from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.downstream.distill import distill
from engine.embedded.judge import load_judge
from engine.evaluation.shares import shares
from engine.priors import Prior, load_prior
from engine.runners.learn_lora import learn_lora
from engine.settings import Alignment, Polish, Sampling
from engine.settings.downstream import Comparison, Distillation
from engine.settings.lora import LoraLearning
from studies.downstream import STUDENT
from studies.evidence import METRICS, Method, draw, evaluated, flops_per_image, images_of
from studies.options import several
from studies.rows import DTYPE, rows_by_domain

LASTS = "4 hours"
SEED = 800
"""As guidance_study.py's: images of this seed are for choosing alone."""
LEARNING_SEED = 850
"""Of images that an adapter is learned from."""
RESULT = RESULTS / "choices.json"
MIXED = ", mixup and CutMix"
"""Ends the name of a way whose students learn from the images of the way before it, two in one."""
NAMED_FAST = Method(Alignment(), sampling=Sampling.fast(), names_domain=True)
WAYS = {
    "default": Method(Alignment()),
    **{f"scale {scale}": Method(Alignment(scale=scale)) for scale in (0.1, 0.2, 0.3)},
    "class weight 0.1": Method(Alignment(class_weight=0.1)),
    "CFG 2.5": Method(Alignment(), sampling=Sampling(cfg=2.5)),
    "2 moves of 0.1": Method(Alignment(moves=2, scale=0.1)),
    "polished": Method(Alignment(polish=Polish(steps=8))),
    "every 2nd step": Method(Alignment(stride=2)),
    "CFG in the middle": Method(Alignment(), sampling=Sampling.fast()),
    "CFG from 10 to 80 %": Method(Alignment(), sampling=Sampling(cfg_start=0.1, cfg_stop=0.8)),
    "CFG in the middle, class weight 0.6": Method(
        Alignment(class_weight=0.6), sampling=Sampling.fast()
    ),
    "CFG to 70 %": Method(Alignment(), sampling=Sampling(cfg_stop=0.7)),
    "every 2nd step, CFG in the middle": Method(Alignment(stride=2), sampling=Sampling.fast()),
    "domain in the prompt": Method(Alignment(), names_domain=True),
    "domain in the prompt, CFG in the middle": NAMED_FAST,
    "plain, domain in the prompt": Method(None, names_domain=True),
    f"domain in the prompt, CFG in the middle{MIXED}": NAMED_FAST,
    f"domain in the prompt, CFG in the middle, class weight 0{MIXED}": replace(
        NAMED_FAST, alignment=Alignment(class_weight=0.0)
    ),
    f"domain in the prompt, CFG of 2.5 in the middle{MIXED}": replace(
        NAMED_FAST, sampling=replace(Sampling.fast(), cfg=2.5)
    ),
    f"domain in the prompt, no CFG{MIXED}": replace(NAMED_FAST, sampling=Sampling(cfg=1.0)),
    f"domain in the prompt, CFG in the middle, polished{MIXED}": replace(
        NAMED_FAST, alignment=Alignment(polish=Polish(steps=8))
    ),
    f"domain in the prompt, CFG in the middle, 2 moves of 0.1{MIXED}": replace(
        NAMED_FAST, alignment=Alignment(moves=2, scale=0.1)
    ),
    f"domain in the prompt, CFG in the middle, 60 steps{MIXED}": replace(
        NAMED_FAST, sampling=replace(Sampling.fast(), steps=60)
    ),
    "adapter": Method(None, sampling=Sampling(cfg=1.0)),
    "adapter, domain in the prompt": Method(None, sampling=Sampling(cfg=1.0), names_domain=True),
}
LEARNED_FROM = {
    "adapter": "default",
    "adapter, domain in the prompt": "domain in the prompt, CFG in the middle",
}
"""Of a way that draws with guidance distilled into an adapter: the way whose images it is learned from."""
LEARNING_IMAGES = 25
"""Of each class."""


def prior_of(way: str, domain: str, prior: Prior, adapter: Path) -> Prior:
    """What draws the images of a way. adapter: where that of a domain is kept."""
    if way not in LEARNED_FROM:
        return prior
    taught = WAYS[LEARNED_FROM[way]]
    learn_lora(
        f"embedded:{domain}",
        images_per_class=LEARNING_IMAGES,
        sampling=taught.sampling_for(domain),
        **guided(taught.alignment),
        seed=LEARNING_SEED,
        out=adapter,
    )
    return load_prior("embedded", dtype=DTYPE, lora=str(adapter))


def main() -> None:
    judge = load_judge()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pacs64-prior.parquet")
    several(parser, "--ways", WAYS)
    several(parser, "--domains", judge.domains)
    parser.add_argument("--images", type=int, default=51, help="images of each class")
    parser.add_argument("--seeds", type=int, default=2, help="students of each set")
    parser.add_argument("--work", type=Path, default=Path("out/choices"))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    real = chosen.data / "pacs64-prior.parquet"
    if not real.is_file():
        parser.error(f"there is no {real}: name the folder with --data")
    prior = load_prior("embedded", dtype=DTYPE)
    asked = {
        "images_per_class": chosen.images,
        "seed": SEED,
        "student": STUDENT,
        "seeds": chosen.seeds,
    }
    result = rows_by_domain(chosen.out, prior, asked, WAYS, judge.domains)
    for way, domain in product(chosen.ways, chosen.domains):
        how, name = WAYS[way], f"{way}/{domain}"
        drawn_as, mixed = way.removesuffix(MIXED), way.endswith(MIXED)
        folder = chosen.work / prior.fingerprint / domain / drawn_as.replace(" ", "_")
        depends = {"settings": how.guidance}
        if way in LEARNED_FROM:
            depends["learned"] = {
                "images": LEARNING_IMAGES,
                "from": WAYS[LEARNED_FROM[way]].guidance,
                **asdict(LoraLearning()),
            }
        row = result.kept(name, depends)
        if "student" in row:
            continue
        guide = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        drawing = prior_of(way, domain, prior, folder / "adapter.safetensors")
        draw(how, guide, drawing, domain, chosen.images, SEED, folder / "images", folder / "plain")
        report = distill(
            folder / "images",
            load_classifier(f"embedded:{domain}", device="cpu"),
            STUDENT,
            out=folder / ("students-mixed" if mixed else "students"),
            test=real,
            domain=domain,
            distillation=Distillation(mix="both" if mixed else "none"),
            comparison=Comparison(seeds=chosen.seeds, noise=False),
        )
        row |= evaluated(folder / "images", domain, METRICS) | {
            "shares": asdict(shares(images_of(folder / "images"), judge, domain)),
            "flops_per_image": flops_per_image(how, guide, prior, domain),
            "student": {key: report["rows"]["folder"][key] for key in ("accuracy", "kl")},
            "measured_images": report["measured_images"],
        }
        result.add(name, row)
        found = row["student"]["kl"]["mean"], row["metrics"]["fid"]["value"]
        print(f"{name}: KL {found[0]:.3f}, FID {found[1]:.2f}", flush=True)
