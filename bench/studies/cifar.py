"""What images teach on CIFAR-10, from a third party's ResNet-44 to a ResNet-20: ours, and those made without a prior.

python bench/studies cifar [--images-per-class 25] [--methods ...] [--iterations 130] [--seeds 3] [--data FOLDER]
                           [--prior FOLDER [--stream 300 --updates 1500]]

Students learn from the images of each method and, in equal numbers, from images of the training set and from noise;
top-1 is on the whole test set. The methods' own settings are the package's, chosen on other classifiers: nothing is
tuned here. `--prior` names a prior of CIFAR-10's classes, which no package has: `python -m engine.embedded.train prior
--cifar --resolution 32 --start-from engine/embedded/weights/prior` trains the embedded one on the first half of each
class of the training set. With it come the rows of our images and of the plain prior's, and those of a student of
images that are made while it learns, and of one of all training images, with as many updates (`--stream 0` leaves these
out). Defaults are those of the table; a GPU can do more. An interrupted run resumes. Table: `make tables`.
"""

import argparse
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from methods import guided
from result_files import RESULTS

from engine.classifiers import Classifier, load_classifier
from engine.downstream.distill import distill
from engine.downstream.rows import FOLDER, NOISE, PLAIN
from engine.downstream.sources import ORIGINAL, STREAM
from engine.memory.count import counting
from engine.methods.compute import flops_per_image
from engine.methods.registry import settings_of
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment
from engine.settings.downstream import Comparison, Distillation, Streaming
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)
from studies.evidence import seconds_per_image
from studies.rows import DTYPE, Rows

LASTS = "6 hours"
BASELINES = [kind.name for kind in (DeepInversion, PlugInInversion, NaturalInversion)]
OURS, LONGER, ALL_ORIGINAL = "ours", "ours, as long", "all original"
ROOT = Path(__file__).parents[2]
RESULT = RESULTS / "cifar.json"
TEACHER, STUDENT = "resnet44", "resnet20"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEED = 900
STREAMED = 300
"""Images of each class of a stream."""
BATCH = 128
"""Of the students that learn for long."""
FACTS = ("teacher", "network", "measured_images", "warnings", "student", "distillation")
"""What is kept of a comparison's report beside its rows."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all rows have in common. work: of images and students."""

    teacher: Classifier
    result: Rows
    train: Path
    test: Path
    work: Path
    images_per_class: int
    seeds: int

    def students(self, folder: Path, out: Path, **arguments: Any) -> dict[str, dict[str, Any]]:
        """The rows of a comparison, each with the facts of its report."""
        report = distill(folder, self.teacher, STUDENT, out=out, test=self.test, **arguments)
        facts = {key: report[key] for key in FACTS}
        return {name: facts | row for name, row in report["rows"].items()}

    def add(self, rows: dict[str, dict[str, Any]]) -> None:
        for name, row in rows.items():
            self.result.add(name, row)
        print({name: round(row["accuracy"]["mean"], 3) for name, row in rows.items()}, flush=True)


def settings_for(method: str, classifier: Classifier, iterations: int) -> InversionSettings:
    """A method's settings, its iterations cut or stretched as DeepInversion's are: all cost about the same."""
    settings = settings_of(method, lambda: classifier)
    share = iterations / settings_of(DeepInversion.name, lambda: classifier).iterations
    return replace(settings, iterations=max(1, round(share * settings.iterations)))


def without_prior(study: Study, method: str, iterations: int) -> None:
    """Students of a method's images; with the first method come those of original images and of noise."""
    if study.result.kept(method):
        return
    teacher, first = study.teacher, not study.result.kept(NOISE)
    settings, images = settings_for(method, teacher, iterations), study.work / method / "images"
    for _ in generate(
        teacher,
        images_per_class=study.images_per_class,
        method=settings,
        seed=SEED,
        out=images,
    ):
        pass
    rows = study.students(
        images,
        study.work / method / ("students" if first else "students-alone"),
        original=study.train if first else None,
        comparison=Comparison(seeds=study.seeds, noise=first),
    )
    rows = {method if name == FOLDER else name: row for name, row in rows.items()}
    rows[method] |= {
        "settings": asdict(settings),
        "seconds_per_image": seconds_per_image([images]),
        "flops_per_image": flops_per_image(settings, teacher),
    }
    study.add(rows)  # noise is the last


def with_prior(study: Study, prior: Prior, guide: Classifier) -> None:
    """Students of our images and of the plain prior's."""
    made_by = {"prior": prior.fingerprint, "alignment": asdict(Alignment())}
    if "accuracy" in study.result.kept(OURS, made_by):
        return
    place = study.work / prior.fingerprint
    costs = {}
    for name, alignment in ((OURS, Alignment()), (PLAIN, None)):
        how: dict[str, Any] = {"seed": SEED, **guided(alignment)}
        for _ in generate(guide, prior, None, study.images_per_class, out=place / name, **how):
            pass
        with counting() as count:
            number = sum(1 for _ in generate(guide, prior, None, 1, **how))
        costs[name] = {
            "seconds_per_image": seconds_per_image([place / name]),
            "flops_per_image": count.flops / number,
        }
    rows = study.students(
        place / OURS,
        place / "students",
        plain=place / PLAIN,
        comparison=Comparison(seeds=study.seeds, noise=False),
    )
    found = {OURS: rows[FOLDER], PLAIN: rows[PLAIN]}
    study.add({name: row | made_by | costs[name] for name, row in found.items()})


def streamed(study: Study, prior: Prior, number: int, updates: int) -> None:
    """Students of a stream, of our images, and of all original ones. number: of the stream's, of each class."""
    made_by = {
        "prior": prior.fingerprint,
        "alignment": asdict(Alignment()),
        "images_per_class": number,
        "updates": updates,
    }
    if "accuracy" in study.result.kept(STREAM, made_by):
        return
    place = study.work / prior.fingerprint
    rows = study.students(
        place / OURS,
        place / f"stream-{number}-{updates}",
        original=study.train,
        prior=prior,
        distillation=Distillation(updates=updates, batch=BATCH),
        streaming=Streaming(images_per_class=number, pool=max(BATCH, number * len(LABELS))),
        comparison=Comparison(seeds=1, noise=False, equal_sizes=False),
    )
    found = {ALL_ORIGINAL: rows[ORIGINAL], LONGER: rows[FOLDER], STREAM: rows[STREAM]}
    study.add({name: row | made_by for name, row in found.items()})


def main() -> None:
    data = Path(os.environ.get("DDIS_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images-per-class", type=int, default=25)
    parser.add_argument("--methods", nargs="*", choices=BASELINES, default=BASELINES[:1])
    parser.add_argument(
        "--iterations",
        type=int,
        default=130,
        help="of DeepInversion, 130 by default, for a CPU; those of the others change in the same proportion",
    )
    parser.add_argument("--seeds", type=int, default=3, help="students of each set")
    parser.add_argument("--prior", help="folder of a prior of CIFAR-10's classes")
    parser.add_argument(
        "--stream", type=int, help="images of each class of a stream (default: 300 with --prior)"
    )
    parser.add_argument("--updates", type=int, default=1500, help="of the stream's student")
    parser.add_argument(
        "--data", type=Path, default=data, help="folder with cifar10-train and -test.parquet"
    )
    parser.add_argument(
        "--models", type=Path, help="folder with resnet44-*.th (default: models beside --data)"
    )
    parser.add_argument("--work", type=Path, default=Path("out/cifar"))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if chosen.stream and not chosen.prior:
        parser.error("--stream came without --prior: name the prior that draws its images")
    models = chosen.models or chosen.data.parent / "models"
    checkpoints = sorted(models.glob(f"{TEACHER}-*.th"))
    train, test = (chosen.data / f"cifar10-{part}.parquet" for part in ("train", "test"))
    for path in (train, test, *(checkpoints or [models / f"{TEACHER}-*.th"])):
        if not path.exists():
            parser.error(f"there is no {path}: set DDIS_DATA, or give --data and --models")

    def classifier(dtype: str) -> Classifier:
        return load_classifier(checkpoints[0], architecture=TEACHER, labels=LABELS, dtype=dtype)

    teacher = classifier("float32")
    asked = {
        "teacher": [TEACHER, teacher.fingerprint],
        "student": STUDENT,
        "images_per_class": chosen.images_per_class,
        "iterations": chosen.iterations,
        "seeds": chosen.seeds,
        "seed": SEED,
        "distillation": asdict(Distillation()),
    }
    work = chosen.work / f"{chosen.images_per_class}-images-{chosen.iterations}-iterations"
    study = Study(
        teacher=teacher,
        result=Rows(chosen.out, asked, teacher.device),
        train=train,
        test=test,
        work=work,
        images_per_class=chosen.images_per_class,
        seeds=chosen.seeds,
    )
    for method in chosen.methods:
        without_prior(study, method, chosen.iterations)
    if chosen.prior:
        prior = load_prior(chosen.prior, dtype=DTYPE)
        with_prior(study, prior, classifier(DTYPE))
        if number := STREAMED if chosen.stream is None else chosen.stream:
            streamed(study, prior, number, chosen.updates)
