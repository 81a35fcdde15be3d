"""What images made without a prior teach: CIFAR-10, from a third party's ResNet-44 to a ResNet-20.

python bench/studies cifar [--images-per-class 50] [--methods ...] [--iterations 400] [--seeds 3] [--data FOLDER]

Students learn from the images of each pixel-space method and, in equal numbers, from images of the training set and
from noise; top-1 is on the whole test set. The methods' own settings are the package's, chosen on other classifiers:
nothing is tuned here. A run that is cut goes on where it stopped. Table: `make tables`.
"""

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path

from result_files import RESULTS

from engine.classifiers import Classifier, load_classifier
from engine.downstream.distill import distill
from engine.downstream.rows import FOLDER, NOISE
from engine.methods.compute import flops_per_image
from engine.methods.registry import settings_of
from engine.runners.generate import generate
from engine.settings.downstream import Comparison
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)
from studies.evidence import seconds_per_image
from studies.rows import Rows

BASELINES = [kind.name for kind in (DeepInversion, PlugInInversion, NaturalInversion)]
ROOT = Path(__file__).parents[2]
RESULT = RESULTS / "cifar.json"
TEACHER, STUDENT = "resnet44", "resnet20"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEED = 900
FACTS = ("teacher", "network", "measured_images", "warnings", "student", "distillation")
"""What is kept of a comparison's report beside its rows."""


def settings_for(method: str, classifier: Classifier, iterations: int) -> InversionSettings:
    """A method's settings, its iterations cut or stretched as DeepInversion's are: all cost about the same."""
    settings = settings_of(method, lambda: classifier)
    share = iterations / settings_of(DeepInversion.name, lambda: classifier).iterations
    return replace(settings, iterations=max(1, round(share * settings.iterations)))


def main() -> None:
    data = Path(os.environ.get("DDIS_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images-per-class", type=int, default=50)
    parser.add_argument("--methods", nargs="+", choices=BASELINES, default=list(BASELINES))
    parser.add_argument(
        "--iterations",
        type=int,
        default=DeepInversion().iterations,
        help="of DeepInversion; those of the others change in the same proportion",
    )
    parser.add_argument("--seeds", type=int, default=3, help="students of each set")
    parser.add_argument(
        "--data", type=Path, default=data, help="folder with cifar10-train and -test.parquet"
    )
    parser.add_argument(
        "--models", type=Path, help="folder with resnet44-*.th (default: models beside --data)"
    )
    parser.add_argument("--work", type=Path, default=Path("out/cifar"))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    models = chosen.models or chosen.data.parent / "models"
    checkpoints = sorted(models.glob(f"{TEACHER}-*.th"))
    train, test = (chosen.data / f"cifar10-{part}.parquet" for part in ("train", "test"))
    for path in (train, test, *(checkpoints or [models / f"{TEACHER}-*.th"])):
        if not path.exists():
            parser.error(f"there is no {path}: set DDIS_DATA, or give --data and --models")
    teacher = load_classifier(checkpoints[0], architecture=TEACHER, labels=LABELS)
    asked = {
        "teacher": [TEACHER, teacher.fingerprint],
        "student": STUDENT,
        "images_per_class": chosen.images_per_class,
        "iterations": chosen.iterations,
        "seeds": chosen.seeds,
        "seed": SEED,
    }
    result = Rows(chosen.out, asked, teacher.device)
    work = chosen.work / f"{chosen.images_per_class}-images-{chosen.iterations}-iterations"
    for method in chosen.methods:
        if result.kept(method):
            continue
        settings, images = (
            settings_for(method, teacher, chosen.iterations),
            work / method / "images",
        )
        for _ in generate(
            teacher,
            images_per_class=chosen.images_per_class,
            method=settings,
            seed=SEED,
            out=images,
        ):
            pass
        first = not result.kept(NOISE)  # original images and noise are the same beside every method
        report = distill(
            images,
            teacher,
            STUDENT,
            out=work / method / ("students" if first else "students-alone"),
            original=train if first else None,
            test=test,
            comparison=Comparison(seeds=chosen.seeds, noise=first),
        )
        facts = {key: report[key] for key in FACTS}
        rows = {
            method if name == FOLDER else name: facts | row for name, row in report["rows"].items()
        }
        rows[method] |= {
            "settings": asdict(settings),
            "seconds_per_image": seconds_per_image([images]),
            "flops_per_image": flops_per_image(settings, teacher),
        }
        for name, row in rows.items():  # noise is the last
            result.add(name, row)
        print({name: round(row["accuracy"]["mean"], 3) for name, row in rows.items()}, flush=True)
