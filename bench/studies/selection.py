"""What selecting does: half of the images that evidence.py left in --work, kept in several ways.

python bench/studies selection [--keep 0.5] [--method both] [--domains ...]

Twice as many images are made as are wanted. Every way keeps equally many of each class, so that the half taken by
chance says what the same number is worth without selecting; that it costs half the compute is in no column. The judge
and the real images measure alone: selecting reads the teacher's logits and moments. Table: `make tables`.
"""

import argparse
from dataclasses import asdict
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.datasets.run_record import read_run
from engine.embedded.judge import load_judge
from engine.evaluation.select import select
from engine.evaluation.shares import shares
from engine.priors import load_prior
from engine.settings import Selection
from studies.downstream import add_folders, together
from studies.evidence import FIRST_SEED, METHODS, evaluated, folder_of, images_of
from studies.rows import DTYPE, Rows

LASTS = "minutes"
RESULT = RESULTS / "selection.json"
WAYS = {
    "chance": {"by": "chance", "agreement": False},
    "teacher's agreement": {"by": "chance"},
    "energy": {"by": "energy"},
    "l_bn": {"by": "l_bn"},
    "l_bn_share": {"by": "l_bn_share"},
}


def main() -> None:
    judge = load_judge()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", type=float, default=0.5, help="share of the images that is kept")
    parser.add_argument("--method", choices=METHODS, default="both", help="of evidence.py")
    add_folders(parser)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded", dtype=DTYPE)
    asked = {
        "prior": prior.fingerprint,
        "keep": chosen.keep,
        "method": chosen.method,
        "seeds": chosen.seeds,
    }
    names = [f"{way}/{domain}" for way, domain in product(WAYS, judge.domains)]
    result = Rows(chosen.out, asked, "cpu", names)
    for domain in chosen.domains:
        classifier = load_classifier(f"embedded:{domain}", device="cpu")
        how, root = folder_of(chosen.method, domain, classifier, prior, chosen.work)
        depends = {
            "settings": asdict(METHODS[chosen.method]),
            "token_file": root.name if how.tokens else None,
        }
        seeds = [root / str(FIRST_SEED + n) for n in range(chosen.seeds)]
        teacher = read_run(seeds[0]).facts["classifier"]
        folder = together(seeds, root / "pool", classifier=teacher)
        for way, choice in WAYS.items():
            row = result.kept(f"{way}/{domain}", depends)
            if "metrics" in row:
                continue
            selection = Selection(keep=chosen.keep, **choice)
            half = root / f"selected-{chosen.keep}" / way.replace(" ", "_")
            select(folder, half, selection, classifier)
            row |= evaluated(half, domain) | {
                "selection": vars(selection),
                "shares": asdict(shares(images_of(half), judge, domain)),
            }
            result.add(f"{way}/{domain}", row)
            print(f"{way}/{domain}", f"FID {row['metrics']['fid']['value']:.2f}", flush=True)
