"""What the images of bench/evidence.py teach: distilling, pruning and int8 calibration, beside other sets.

python bench/downstream.py --data FOLDER [--tasks distill prune quantise] [--domains ...]

For each embedded classifier the seeds of the method "both" are put together, and those of the plain prior; as many
original images come from pacs64-train of the domain, and accuracy is measured on pacs64-test of the domain, which no
setting was chosen on. Needs the folders that bench/evidence.py left in --work. Cut runs go on where they stopped.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from evidence import FIRST_SEED, WORK, folder_of, images_of

from engine.downstream.distill import distill
from engine.downstream.prune import prune
from engine.downstream.quantise import quantise
from engine.files import write_whole
from engine.models import load_classifier, load_prior
from engine.models.embedded.judge import load_judge
from engine.outputs.dataset import open_dataset
from engine.outputs.run_record import read_run, versions
from engine.types import ImageKey

TASKS: dict[str, Callable[..., dict]] = {"distill": distill, "prune": prune, "quantise": quantise}
RESULT = Path(__file__).parent / "results" / "downstream.json"
OURS = "both"


def together(folders: list[Path], out: Path) -> Path:
    """One data set of the images of several, numbered on."""
    samples = [images_of(folder) for folder in folders]
    labels = {sample.key.class_index: sample.label for sample in samples[0]}
    with open_dataset(
        out, {"together": [read_run(folder)["config"] for folder in folders]}, labels
    ) as writer:
        for place, found in enumerate(samples):
            step = 1 + max(sample.key.index for sample in found)
            for sample in found:
                key = ImageKey(sample.key.class_index, sample.key.index + place * step)
                writer.add(replace(sample, key=key))
        writer.finish({})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pacs64-train and -test.parquet")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--domains", nargs="+", choices=load_judge().domains, default=load_judge().domains)
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds of bench/evidence.py that are put together"
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded")
    asked = {"prior": prior.fingerprint, "first_seed": FIRST_SEED, "seeds": chosen.seeds, "method": OURS}
    result: dict = {"settings": asked, "environment": {}, "rows": {}}
    if chosen.out.exists() and (kept := json.loads(chosen.out.read_text()))["settings"] == asked:
        result = kept
    result["environment"] = {
        "device": "cpu", "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip
    for task in chosen.tasks:
        for domain in chosen.domains:
            classifier = load_classifier(f"embedded:{domain}", device="cpu")
            root = chosen.work / prior.fingerprint / domain
            sets = {}
            for method in ("plain", OURS):
                _, place = folder_of(method, domain, classifier, prior, chosen.work)
                seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
                sets[method] = together([place / str(seed) for seed in seeds], place / "together")
            report = TASKS[task](
                sets[OURS], classifier, out=root / task, original=chosen.data / "pacs64-train.parquet",
                plain=sets["plain"], test=chosen.data / "pacs64-test.parquet", domain=domain,
            )  # fmt: skip
            kept = ("rows", "teacher", "network", "measured_images", "warnings", "student", "distillation")
            result["rows"][f"{task}/{domain}"] = {key: report[key] for key in kept if key in report}
            write_whole(chosen.out, json.dumps(result, indent=1).encode() + b"\n")
            shown = {name: row["accuracy"]["mean"] for name, row in report["rows"].items()}
            print(task, domain, shown, flush=True)


if __name__ == "__main__":
    main()
