"""What the images of evidence.py teach: distilling, pruning and int8 calibration, beside other sets.

python bench/studies downstream --data FOLDER [--tasks distill prune quantise told more] [--domains ...]

For each embedded classifier the seeds of a method of ours are put together, and those of the plain prior; as many
original images come from pacs64-train of the domain, and accuracy is measured on pacs64-test of the domain, which no
setting was chosen on. `told` and `more` distil from other sets, to say what ours lack: see FURTHER. Images are those
that evidence.py left in --work; what is missing is drawn. Cut runs go on where they stopped, and several with
other --tasks or --domains may run at once. A row of images that other settings or tokens made is run again.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import load_classifier
from engine.datasets.dataset import open_dataset
from engine.datasets.run_record import read_run
from engine.downstream.distill import distill
from engine.downstream.prune import prune
from engine.downstream.quantise import quantise
from engine.embedded.judge import load_judge
from engine.evaluation.images import open_images
from engine.priors import load_prior
from engine.settings.downstream import Comparison
from engine.types import ImageKey
from studies.evidence import (
    FIRST_SEED,
    IMAGES,
    METHODS,
    WORK,
    draw,
    folder_of,
    images_of,
    shared_folder,
)
from studies.rows import DTYPE, Rows, alone

TASKS: dict[str, Callable[..., dict]] = {"distill": distill, "prune": prune, "quantise": quantise}
RESULT = RESULTS / "downstream.json"
OURS, PLAIN = "both", "plain"
"""The methods of evidence.py whose images are compared: sampled alike, with and without the classifier."""
FURTHER = {"told": ("plain, told the domain", 1), "more": (OURS, 2)}
"""A method, and how many times as many images as of ours in the other tasks: the prior with a prompt that says what
guidance has to find out, and ours with more images than there are original ones."""
KEPT = ("rows", "teacher", "network", "measured_images", "warnings", "student", "distillation")


def together(
    folders: list[Path], out: Path, at_most: Mapping[str, int] | None = None, **made_with: object
) -> Path:
    """One data set of the images of several, numbered on.

    at_most: of each class. made_with: what of their settings it shall have too.
    """
    samples = [images_of(folder) for folder in folders]
    labels = {sample.key.class_index: sample.label for sample in samples[0]}
    config = {"together": [read_run(folder).made for folder in folders], **made_with}
    written: Counter[str] = Counter()
    with alone(out.parent), open_dataset(out, config, labels) as writer:
        for place, found in enumerate(samples):
            step = 1 + max(sample.key.index for sample in found)
            for sample in found:
                if at_most is not None and written[sample.label] == at_most[sample.label]:
                    continue
                written[sample.label] += 1
                key = ImageKey(sample.key.class_index, sample.key.index + place * step)
                writer.add(replace(sample, key=key))
        writer.finish({})
    return out


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Options that say which folders of evidence.py are read."""
    parser.add_argument(
        "--domains", nargs="+", choices=load_judge().domains, default=load_judge().domains
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="seeds of evidence.py that are put together",
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where evidence.py left them")


def main() -> None:
    tasks = [*TASKS, *FURTHER]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with pacs64-train and -test.parquet"
    )
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    add_folders(parser)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    train, test = (chosen.data / f"pacs64-{part}.parquet" for part in ("train", "test"))
    prior = load_prior("embedded", dtype=DTYPE)
    result = Rows(
        chosen.out,
        {
            "prior": prior.fingerprint,
            "first_seed": FIRST_SEED,
            "seeds": chosen.seeds,
            "methods": {task: FURTHER.get(task, (OURS, 1))[0] for task in tasks},
        },
        "cpu",
        [f"{task}/{domain}" for task, domain in product(tasks, load_judge().domains)],
    )

    def pool(
        method: str, domain: str, times: int = 1, limits: Mapping[str, int] | None = None
    ) -> Path:
        """All seeds of a method as one folder."""
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        how, root = folder_of(method, domain, classifier, prior, chosen.work)
        folders = [root / str(FIRST_SEED + number) for number in range(times * chosen.seeds)]
        for seed, folder in enumerate(folders, FIRST_SEED):
            shared = shared_folder(how, prior, chosen.work, seed)
            with alone(root):
                draw(how, classifier, prior, domain, IMAGES, seed, folder, shared)
        name = "together" if limits is None else f"together-{times}-times-original"
        return together(folders, root / name, limits)

    for task, domain in product(chosen.tasks, chosen.domains):
        name, classifier = f"{task}/{domain}", load_classifier(f"embedded:{domain}", device="cpu")
        method, times = FURTHER.get(task, (OURS, 1))
        how, root = folder_of(method, domain, classifier, prior, chosen.work)
        depends = {
            "settings": asdict(METHODS[method]),
            "token_file": root.name if how.tokens else None,
        }
        depends |= {"plain": asdict(METHODS[PLAIN])} if task in TASKS else {"times": times}
        row = result.kept(name, depends)
        if "rows" in row:
            continue
        if task in TASKS:
            report = TASKS[task](
                pool(OURS, domain),
                classifier,
                out=root / task,
                original=train,
                plain=pool(PLAIN, domain),
                test=test,
                domain=domain,
            )
        else:
            original = Counter(open_images(train, domain).labels())
            limits = {
                label: times * min(original[label], IMAGES * chosen.seeds) for label in original
            }
            report = distill(
                pool(method, domain, times, limits),
                classifier,
                out=root / task,
                test=test,
                domain=domain,
                comparison=Comparison(noise=False),
            )
        result.add(name, row | {key: report[key] for key in KEPT if key in report})
        print(
            name,
            {of: found["accuracy"]["mean"] for of, found in report["rows"].items()},
            flush=True,
        )
