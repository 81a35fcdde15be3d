"""How near `ddis tune` comes to the prompt and the scale that real images would choose.

python bench/studies tune [--domains ...]

For each embedded classifier: the score of `tune` with each prompt, and then at each scale with the prompt that was
found, on its 4 images a class, and the FID of 8 other images a class against the domain's real ones, by the judge.
Tuning reads the first alone. Cut runs go on, and several with other --domains may run at once.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.embedded.judge import load_judge
from engine.methods.drawing import Drawing
from engine.priors import load_prior
from engine.runners.asking import asked as requested
from engine.runners.generate import generate
from engine.runners.trial import Trial
from engine.runners.tune import (
    PROMPTS,
    SCALES,
    TUNING_SEED,
    try_prompt,
    try_scale,
    with_alignment,
    with_prompt,
)
from engine.settings import Alignment, Evaluation, Sampling
from studies.evidence import FIRST_SEED, evaluated
from studies.rows import DTYPE, Rows

LASTS = "an hour"
RESULT = RESULTS / "tune.json"
ORACLE_SEED = FIRST_SEED + 1000
IMAGES, ORACLE_IMAGES = 4, 8


def kept(
    result: Rows,
    work: Path,
    name: str,
    drawing: Drawing,
    attempt: Callable[[Drawing], Trial],
) -> dict[str, Any]:
    """The row of a name, '<domain>/<what is tried>', made where it is missing."""
    domain, what = name.split("/")
    row = result.kept(name, {"prompt": drawing.sampling.prompt})
    if "fid" in row:
        return row
    trial = attempt(drawing)
    folder = work / domain / what.replace(" ", "_")
    images = (drawing.classifier, drawing.prior, None, ORACLE_IMAGES)
    made_so = {"alignment": drawing.alignment, "sampling": drawing.sampling}
    for _ in generate(*images, **made_so, seed=ORACLE_SEED, out=folder):
        pass
    metrics = evaluated(folder, domain, Evaluation(resamples=0))["metrics"]
    row |= asdict(trial) | {"score": trial.score, "fid": metrics["fid"]["value"]}
    result.add(name, row)
    print(f"{name}: score {row['score']:.2f}, FID {row['fid']:.1f}", flush=True)
    return row


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
    tried = (*PROMPTS, *map(str, SCALES))
    names = [f"{domain}/{what}" for domain, what in product(load_judge().domains, tried)]
    result = Rows(chosen.out, asked, prior.device, names)
    measured = partial(kept, result, chosen.work / prior.fingerprint)
    drawn_with: dict[str, Drawing] = {}
    for domain in chosen.domains:  # prompts of all domains first: other studies wait for them
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        wanted = requested(classifier, prior, images_per_class=IMAGES, seed=TUNING_SEED)
        drawing = cast(Drawing, wanted.prepare())
        rows = {
            prompt: measured(f"{domain}/{prompt}", with_prompt(drawing, prompt), try_prompt)
            for prompt in PROMPTS
        }
        best = min(rows, key=lambda prompt: rows[prompt]["score"])
        drawn_with[domain] = with_prompt(drawing, best)
    for domain, scale in product(chosen.domains, SCALES):
        drawing = with_alignment(drawn_with[domain], scale=scale)
        measured(f"{domain}/{scale}", drawing, try_scale)
