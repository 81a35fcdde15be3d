"""Few steps with several moves each: what guidance reaches in 8 and in 4 steps, beside 30 and the plain prior.

    python bench/studies few_steps                                  all variants and domains
    python bench/studies few_steps --variants "plain, 8 steps" ...  some of them; other rows stay
    python bench/studies few_steps --smoke                          two short variants, one domain, kept nowhere

Every variant draws the same seeds for each embedded classifier. Rows hold the shares of images in which the judge
sees the class and the domain that were asked for, and in the first domain the FLOPs of an image. A run that is
interrupted goes on where it stopped.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.embedded.judge import load_judge
from engine.evaluation.shares import shares
from engine.priors import load_prior
from engine.settings import Alignment, Sampling
from studies.evidence import Method, draw, flops_per_image, images_of
from studies.options import several
from studies.rows import DTYPE, rows_by_domain

LASTS = "minutes"
SEED = 1400
"""Images of this seed are for this study alone."""
RESULT = RESULTS / "few_steps.json"
CHOICES = {
    8: ((1, 0.2), (4, 0.2), (4, 0.3), (6, 0.2), (8, 0.1), (8, 0.15), (8, 0.2)),
    4: ((1, 0.2), (6, 0.2), (8, 0.2), (16, 0.2)),
}
"""(moves of a step, their scale) by the number of steps."""
SMOKE = ("plain, 4 steps", "4 steps, 8 moves of 0.2")


def variants() -> dict[str, Method]:
    """What is compared, by name; the default of 30 steps first."""
    found = {"guided, 30 steps": Method(Alignment())}
    found |= {
        f"plain, {steps} steps": Method(None, sampling=Sampling(steps=steps))
        for steps in (30, 8, 4)
    }
    for steps, choices in CHOICES.items():
        for moves, scale in choices:
            name = f"{steps} steps, {moves} move{'s' if moves > 1 else ''} of {scale:g}"
            alignment = Alignment(moves=moves, scale=scale)
            found[name] = Method(alignment, sampling=Sampling(steps=steps))
    return found


VARIANTS = variants()


def measure(
    names: Sequence[str],
    domains: Sequence[str],
    images: int,
    work: Path,
    out: Path,
    seed: int = SEED,
) -> None:
    """Draw and judge what the result in `out` lacks. images: of each class. work: keeps the images."""
    prior, judge = load_prior("embedded", dtype=DTYPE), load_judge()
    settings = {"images_per_class": images, "seed": seed}
    result = rows_by_domain(out, prior, settings, VARIANTS, judge.domains)
    for name, domain in product(names, domains):
        variant, key = VARIANTS[name], f"{name}/{domain}"
        row = result.kept(key, {"settings": variant.guidance})
        if "shares" in row:
            continue
        began = time.perf_counter()
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        root = work / prior.fingerprint / str(seed)
        place = name.replace(" ", "_").replace(",", "")
        folder, plain = root / domain / place, root / "plain" / place
        draw(variant, classifier, prior, domain, images, seed, folder, plain)
        row["shares"] = asdict(shares(images_of(folder), judge, domain))
        if domain == judge.domains[0]:
            row["flops_per_image"] = flops_per_image(variant, classifier, prior, domain)
        result.add(key, row)
        seen = row["shares"]
        print(
            f"{key}: class {seen['judge_class']:.2f}, domain {seen['judge_domain']:.2f}, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )


def main() -> None:
    domains = load_judge().domains
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--variants", VARIANTS)
    several(parser, "--domains", domains)
    parser.add_argument("--images", type=int, default=24, help="images of each class")
    parser.add_argument("--seed", type=int, default=SEED, help="with another, name another --out")
    parser.add_argument("--work", type=Path, default=Path("out/few_steps"), help="keeps the images")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--smoke", action="store_true", help="see that it runs; nothing is kept")
    chosen = parser.parse_args()
    if chosen.smoke:
        with tempfile.TemporaryDirectory() as folder:
            measure(SMOKE, domains[:1], 1, Path(folder) / "work", Path(folder) / "result.json")
        return
    measure(chosen.variants, chosen.domains, chosen.images, chosen.work, chosen.out, chosen.seed)
