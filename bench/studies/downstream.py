"""What the images of evidence.py teach: distilling, pruning and int8 calibration, beside other sets.

python bench/studies downstream --data FOLDER [--tasks distill other_student stream tokens prune quantise]

For each embedded classifier the seeds of ours (guided, with the prompt that tune.py found) are put together, and those
of the plain prior, without and with the domain in its prompts. Accuracy and divergence are measured on pacs64-test of
the domain, which no setting was chosen on. Rows have as many images as ours, and as many updates:

original      of pacs64-train, which the classifier was trained on
other         of pacs64-prior: real images of the domain that the classifier has not seen
autoencoder   the original images through the prior's autoencoder

`stream` is the exception: a student of images that are made while it learns, beside one of all original images, eight
times as many updates each. And `tokens` is about plain images with the tokens that ship, beside plain ones, where a
classifier has such tokens. Images are those that evidence.py left in --work; what is missing is drawn. Cut runs go on
where they stopped, and several with other --tasks or --domains may run at once. A row of images that other settings
or tokens made is run again. Tables: `make tables`.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from result_files import RESULTS

from engine.classifiers import Classifier, load_classifier
from engine.datasets.dataset import open_dataset
from engine.datasets.run_record import read_run
from engine.downstream.distill import distill
from engine.downstream.prune import prune
from engine.downstream.quantise import quantise
from engine.embedded.judge import load_judge
from engine.embedded.train.data import load_pacs
from engine.priors import Prior, load_prior
from engine.settings.downstream import (
    Comparison,
    Distillation,
    Pruning,
    Quantisation,
    Streaming,
)
from engine.types import ImageKey
from studies.embedded_figures import decoded
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
from studies.options import several
from studies.rows import DTYPE, Rows, alone

LASTS = "6 hours"
RESULT = RESULTS / "downstream.json"
OURS, BEST, PLAIN = "tuned, fast", "tuned, best", "plain"
NAMED, TOKENS = "plain, domain in the prompt", "CAT"
"""The methods of evidence.py whose images are compared: two that taught most in choices.py, and three without
guidance."""
STUDENT, OTHER_STUDENT = "resnet18/4", "vgg8/4"
"""Half of a classifier's parameters and of its FLOPs; a network without shortcuts, that no setting was chosen on."""
LONGER = Distillation(updates=2880)
"""Of a stream: eight times the updates of `distill`."""
LONG_COMPARISON = Comparison(noise=False, equal_sizes=False, seeds=1)
"""Of a stream: one student of each row, as each takes eight times as long."""
STREAMED = Streaming(images_per_class=364)
KEPT = ("rows", "teacher", "network", "measured_images", "warnings", "student", "distillation")


def together(folders: list[Path], out: Path, **made_with: object) -> Path:
    """One data set of the images of several, numbered on. made_with: what of their settings it shall have too."""
    samples = [images_of(folder) for folder in folders]
    labels = {sample.key.class_index: sample.label for sample in samples[0]}
    config = {"together": [read_run(folder).made for folder in folders], **made_with}
    with alone(out.parent), open_dataset(out, config, labels) as writer:
        for place, found in enumerate(samples):
            step = 1 + max(sample.key.index for sample in found)
            for sample in found:
                key = ImageKey(sample.key.class_index, sample.key.index + place * step)
                writer.add(replace(sample, key=key))
        writer.finish({})
    return out


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Options that say which folders of evidence.py are read."""
    several(parser, "--domains", load_judge().domains)
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="seeds of evidence.py that are put together",
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where evidence.py left them")


class Folders:
    """The sets of one domain. seeds: how many of evidence.py's. method: whose images are "ours"."""

    def __init__(
        self, domain: str, prior: Prior, work: Path, data: Path, seeds: int, method: str = OURS
    ) -> None:
        self.domain, self.prior, self.work, self.seeds = domain, prior, work, seeds
        self.method = method
        self.train, self.test, self.other = (
            data / f"pacs64-{part}.parquet" for part in ("train", "test", "prior")
        )
        self.guide = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        self.ours, self.root = folder_of(method, domain, self.guide, prior, work)

    def seed(self, method: str, seed: int) -> Path:
        """The images of one seed of a method."""
        how, root = folder_of(method, self.domain, self.guide, self.prior, self.work)
        folder, shared = root / str(seed), shared_folder(how, self.prior, self.work, seed)
        with alone(root):
            draw(how, self.guide, self.prior, self.domain, IMAGES, seed, folder, shared)
        return folder

    def pool(self, method: str) -> Path:
        """All seeds of a method as one folder."""
        folders = [self.seed(method, FIRST_SEED + number) for number in range(self.seeds)]
        return together(folders, folders[0].parent / "together")

    def decoded(self) -> Path:
        """The original images through the prior's autoencoder, in folders of classes."""
        folder = self.work / self.prior.fingerprint / "autoencoder" / self.domain
        if folder.exists():
            return folder
        images = load_pacs(self.train)
        images = images.where(images.domains == images.domain_names.index(self.domain))
        prior = load_prior("embedded", device=self.prior.device)
        pixels = decoded(prior.vae, images.pixels / 255, prior.image_size[0])
        with alone(folder.parent):
            if folder.exists():  # another process made it meanwhile
                return folder
            begun = folder.with_name(f".{self.domain}")
            for number, (image, kind) in enumerate(zip(pixels, images.classes, strict=True)):
                file = begun / images.class_names[kind] / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                shown = (image * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(shown).save(file)
            begun.rename(folder)
        return folder


def compared(
    task: Callable[..., dict], folders: Folders, classifier: Classifier, out: Path, **more: Any
) -> dict:
    """The report of a task on ours, beside as many original images and as many of the plain prior's."""
    sets = {"original": folders.train, **more}
    if "plain" not in sets:
        sets["plain"] = folders.pool(PLAIN)
    return task(
        folders.pool(folders.method),
        classifier,
        out=out,
        test=folders.test,
        domain=folders.domain,
        **sets,
    )


def with_tokens(folders: Folders, classifier: Classifier, out: Path) -> dict:
    """Students of plain images with tokens and without."""
    comparison = Comparison(noise=False)
    return compared(
        distill, folders, classifier, out, original=None, student=STUDENT, comparison=comparison
    )


def distilled(
    student: str, noise: bool, folders: Folders, classifier: Classifier, out: Path
) -> dict:
    """Students of these and of the further sets."""
    return compared(
        distill,
        folders,
        classifier,
        out,
        student=student,
        rows={
            "other": folders.other,
            "autoencoder": folders.decoded(),
            "named": folders.pool(NAMED),
        },
        comparison=Comparison(noise=noise),
    )


def best(folders: Folders, classifier: Classifier, out: Path) -> dict:
    """Students of `--preset best` and of `--preset fast`, both with a tuned prompt."""
    return compared(
        distill,
        folders,
        classifier,
        out,
        original=None,
        plain=None,
        student=STUDENT,
        rows={"other": folders.other, "fast": folders.pool(OURS)},
        comparison=Comparison(noise=False),
    )


def streamed(folders: Folders, classifier: Classifier, out: Path) -> dict:
    return distill(
        folders.seed(OURS, FIRST_SEED),
        classifier,
        STUDENT,
        out=out,
        original=folders.train,
        test=folders.test,
        domain=folders.domain,
        prior=folders.prior,
        distillation=LONGER,
        streaming=STREAMED,
        comparison=LONG_COMPARISON,
    )


TASKS: dict[str, Callable[[Folders, Classifier, Path], dict]] = {
    "distill": partial(distilled, STUDENT, True),
    "other_student": partial(distilled, OTHER_STUDENT, False),
    "best": best,
    "stream": streamed,
    "tokens": with_tokens,
    "prune": partial(compared, prune),
    "quantise": partial(compared, quantise),
}

ASKED: dict[str, dict[str, object]] = {
    **{
        task: {
            "student": student,
            "named": asdict(METHODS[NAMED]),
            "distillation": asdict(Distillation()),
        }
        for task, student in (("distill", STUDENT), ("other_student", OTHER_STUDENT))
    },
    "best": {
        "student": STUDENT,
        "fast": asdict(METHODS[OURS]),
        "distillation": asdict(Distillation()),
    },
    "stream": {
        "student": STUDENT,
        "distillation": asdict(LONGER),
        "streaming": asdict(STREAMED),
        "comparison": asdict(LONG_COMPARISON),
    },
    "tokens": {"student": STUDENT, "distillation": asdict(Distillation())},
    "prune": asdict(Pruning()),
    "quantise": asdict(Quantisation()),
}
"""What a task's rows depend on beside ours and the plain prior's images."""
COMPARED = dict.fromkeys(TASKS, OURS) | {"best": BEST, "tokens": TOKENS}
"""The method whose images each task holds against the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with pacs64-train, -test and -prior"
    )
    several(parser, "--tasks", TASKS)
    add_folders(parser)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior = load_prior("embedded", dtype=DTYPE)
    result = Rows(
        chosen.out,
        {
            "prior": prior.fingerprint,
            "first_seed": FIRST_SEED,
            "seeds": chosen.seeds,
            "methods": COMPARED,
        },
        "cpu",
        [f"{task}/{domain}" for task, domain in product(TASKS, load_judge().domains)],
    )
    for task, domain in product(chosen.tasks, chosen.domains):
        method = COMPARED[task]
        folders = Folders(domain, prior, chosen.work, chosen.data, chosen.seeds, method)
        if task == "tokens" and not folders.ours.tokens:
            continue
        name = f"{task}/{domain}"
        depends = {
            "asked": ASKED[task],
            "settings": asdict(METHODS[method]),
            "prompt": METHODS[method].sampling_for(domain).prompt,
            "token_file": folders.root.name if folders.ours.tokens else None,
            "plain": asdict(METHODS[PLAIN]),
        }
        row = result.kept(name, depends)
        if "rows" in row:
            continue
        classifier = load_classifier(f"embedded:{domain}", device="cpu")
        report = TASKS[task](folders, classifier, folders.root / task)
        result.add(name, row | {key: report[key] for key in KEPT if key in report})
        found = report["rows"].items()
        print(name, {of: round(row["accuracy"]["mean"], 3) for of, row in found}, flush=True)
