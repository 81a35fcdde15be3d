"""What the images of bench/evidence.py teach: distilling, pruning and int8 calibration, beside other sets.

python bench/downstream.py --data FOLDER [--tasks distill prune quantise] [--domains ...]

For each embedded classifier the seeds of a method of ours are put together, and those of the plain prior; as many
original images come from pacs64-train of the domain, and accuracy is measured on pacs64-test of the domain, which no
setting was chosen on. Needs the folders that bench/evidence.py left in --work. Cut runs go on where they stopped, and
several with other --tasks or --domains may run at once. A row of images that other settings or tokens made is run anew.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from evidence import FIRST_SEED, METHODS, WORK, folder_of, images_of
from rows import Rows, alone

from engine.downstream.distill import distill
from engine.downstream.prune import prune
from engine.downstream.quantise import quantise
from engine.models import load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.outputs.dataset import open_dataset
from engine.outputs.run_record import read_run
from engine.types import ImageKey

TASKS: dict[str, Callable[..., dict]] = {"distill": distill, "prune": prune, "quantise": quantise}
RESULT = Path(__file__).parent / "results" / "downstream.json"
OURS = {"distill": "both at CFG 4", "prune": "both at CFG 4", "quantise": "both"}
"""The method of bench/evidence.py whose images a task reads. Students need variety, and guidance_study.py found more of
it at a low CFG (recall .57 of real images at 4, .48 at 7.5)."""
PLAIN = {"distill": "plain at CFG 4", "prune": "plain at CFG 4", "quantise": "plain"}
"""What it is held against: the prior alone, sampled alike."""


def together(folders: list[Path], out: Path, **made_with: object) -> Path:
    """One data set of the images of several, numbered on. made_with: what of their settings it shall have too."""
    samples = [images_of(folder) for folder in folders]
    labels = {sample.key.class_index: sample.label for sample in samples[0]}
    config = {"together": [read_run(folder)["config"] for folder in folders], **made_with}
    with alone(out.parent), open_dataset(out, config, labels) as writer:
        for place, found in enumerate(samples):
            step = 1 + max(sample.key.index for sample in found)
            for sample in found:
                key = ImageKey(sample.key.class_index, sample.key.index + place * step)
                writer.add(replace(sample, key=key))
        writer.finish({})
    return out


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Options that say which folders of bench/evidence.py are read."""
    parser.add_argument("--domains", nargs="+", choices=load_judge().domains, default=load_judge().domains)
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds of bench/evidence.py that are put together"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where bench/evidence.py left them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pacs64-train and -test.parquet")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add_folders(parser)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    result = Rows(
        chosen.out,
        {"prior": prior.fingerprint, "first_seed": FIRST_SEED, "seeds": chosen.seeds, "methods": OURS},
        "cpu",
        [f"{task}/{domain}" for task, domain in product(TASKS, load_judge().domains)],
    )
    for task, domain in product(chosen.tasks, chosen.domains):
        name, classifier = f"{task}/{domain}", load_classifier(f"embedded:{domain}", device="cpu")
        how, ours = folder_of(OURS[task], domain, classifier, prior, chosen.work)
        depends = {
            "settings": asdict(METHODS[OURS[task]]),
            "plain": asdict(METHODS[PLAIN[task]]),
            "token_file": ours.name if how.tokens else None,
        }
        row = result.kept(name, depends)
        if "rows" in row:
            continue
        _, plain = folder_of(PLAIN[task], domain, classifier, prior, chosen.work)
        sets = [
            together([place / str(FIRST_SEED + n) for n in range(chosen.seeds)], place / "together")
            for place in (ours, plain)
        ]
        report = TASKS[task](
            sets[0], classifier, out=ours / task, original=chosen.data / "pacs64-train.parquet", plain=sets[1],
            test=chosen.data / "pacs64-test.parquet", domain=domain,
        )  # fmt: skip
        kept = ("rows", "teacher", "network", "measured_images", "warnings", "student", "distillation")
        result.add(name, row | {key: report[key] for key in kept if key in report})
        print(name, {of: found["accuracy"]["mean"] for of, found in report["rows"].items()}, flush=True)


if __name__ == "__main__":
    main()
