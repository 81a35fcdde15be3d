"""How near `ddis tune` comes to the scale that real images would choose.

python bench/studies tune [--domains ...]

For each embedded classifier: the score of `tune` at each scale, on its 4 images a class, and the FID of 8 other images
a class against the domain's real ones, by the judge. Tuning reads the first alone. Cut runs go on, and several with
other --domains may run at once.
"""

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.embedded.judge import load_judge
from engine.priors import load_prior
from engine.runners.asking import asked as requested
from engine.runners.generate import generate
from engine.runners.tune import TUNING_SEED, try_scale, with_alignment
from engine.settings import Alignment, Evaluation, Sampling
from studies.evidence import FIRST_SEED, evaluated
from studies.rows import DTYPE, Rows

RESULT = RESULTS / "tune.json"
SCALES = (0.1, 0.2, 0.4, 0.6, 0.8)
ORACLE_SEED = FIRST_SEED + 1000
IMAGES, ORACLE_IMAGES = 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--domains", nargs="+", default=load_judge().domains)
    parser.add_argument("--work", type=Path, default=Path("out/tune"))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded", dtype=DTYPE)
    asked = {
        "prior": prior.fingerprint,
        "alignment": asdict(Alignment()),
        "sampling": asdict(Sampling()),
        "images": IMAGES,
        "oracle_images": ORACLE_IMAGES,
    }
    names = [f"{domain}/{scale}" for domain, scale in product(load_judge().domains, SCALES)]
    result = Rows(chosen.out, asked, prior.device, names)
    for domain in chosen.domains:
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        wanted = requested(classifier, prior, images_per_class=IMAGES, seed=TUNING_SEED)
        drawing = wanted.prepare()
        for scale in SCALES:
            name = f"{domain}/{scale}"
            if result.kept(name):
                continue
            alignment = replace(Alignment(), scale=scale)
            trial = try_scale(with_alignment(drawing, scale=scale))
            folder = chosen.work / prior.fingerprint / domain / str(scale)
            for _ in generate(
                classifier,
                prior,
                None,
                ORACLE_IMAGES,
                alignment=alignment,
                seed=ORACLE_SEED,
                out=folder,
            ):
                pass
            metrics = evaluated(folder, domain, Evaluation(resamples=0))["metrics"]
            row = asdict(trial) | {"score": trial.score, "fid": metrics["fid"]["value"]}
            result.add(name, row)
            print(name, row, flush=True)
