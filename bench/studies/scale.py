"""How long the moves of guidance should be: by what students learn from the images, beside the evaluator's figures.

python bench/studies scale --data FOLDER [--scales 0.1 0.15 0.2 0.3] [--domains ...] [--images 51]

FID reads moments of features, which guidance equalises, so it flatters long moves; a student does not. Students learn
from each scale's images, of the same seeds, and are measured on pacs64-prior: real images of the domain that the
classifier has not seen. The prior has, which may favour short moves: pacs64-test is left for the figures. A run that is
cut goes on where it stopped. Table: `make tables`.
"""

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.downstream.distill import distill
from engine.embedded.judge import load_judge
from engine.evaluation.shares import shares
from engine.priors import load_prior
from engine.settings import Alignment
from engine.settings.downstream import Comparison
from studies.downstream import STUDENT
from studies.evidence import METRICS, Method, draw, evaluated, images_of
from studies.rows import DTYPE, rows_by_domain

SEED = 800
"""As guidance_study.py's: images of this seed are for choosing alone."""
RESULT = RESULTS / "scale.json"
SCALES = (0.1, 0.15, 0.2, 0.3)


def main() -> None:
    judge = load_judge()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pacs64-prior.parquet")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES)
    parser.add_argument("--domains", nargs="+", choices=judge.domains, default=judge.domains)
    parser.add_argument("--images", type=int, default=51, help="images of each class")
    parser.add_argument("--seeds", type=int, default=2, help="students of each set")
    parser.add_argument("--work", type=Path, default=Path("out/scale"))
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
        "but_scale": {
            name: value for name, value in asdict(Alignment()).items() if name != "scale"
        },
    }
    result = rows_by_domain(chosen.out, prior, asked, map(str, chosen.scales), judge.domains)
    for domain, scale in product(chosen.domains, chosen.scales):
        name, folder = f"{scale}/{domain}", chosen.work / prior.fingerprint / domain / str(scale)
        if result.kept(name):
            continue
        guide = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        how = Method(replace(Alignment(), scale=scale))
        draw(how, guide, prior, domain, chosen.images, SEED, folder / "images", folder / "plain")
        report = distill(
            folder / "images",
            load_classifier(f"embedded:{domain}", device="cpu"),
            STUDENT,
            out=folder / "students",
            test=real,
            domain=domain,
            comparison=Comparison(seeds=chosen.seeds, noise=False),
        )
        row = evaluated(folder / "images", domain, METRICS) | {
            "shares": asdict(shares(images_of(folder / "images"), judge, domain)),
            "student": {key: report["rows"]["folder"][key] for key in ("accuracy", "kl")},
            "measured_images": report["measured_images"],
        }
        result.add(name, row)
        found = row["student"]["kl"]["mean"], row["metrics"]["fid"]["value"]
        print(f"{name}: KL {found[0]:.3f}, FID {found[1]:.2f}", flush=True)
