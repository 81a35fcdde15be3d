"""A classifier of one's own set of images: the start of the path for a style that no public classifier knows.

Its loss is cross-entropy, which is distillation from a teacher that is sure of each image's own class. It has BatchNorm
layers, whose running statistics are then those of the set: what `generate` aligns to.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.classifiers import Preprocess, save_classifier
from engine.classifiers.architectures import ARCHITECTURES
from engine.classifiers.untrained import untrained
from engine.datasets.dataset import has_manifest
from engine.datasets.run_record import differences
from engine.downstream.pixels import Images, fingerprint_of, read_pixels
from engine.downstream.students import SMALL_PX, WEIGHTS
from engine.downstream.training import logits_on, reading, teach
from engine.errors import ConfigError, OutputError, check_type, counted
from engine.evaluation.image_files import ENDINGS, is_hidden
from engine.evaluation.images import IMAGE_SETS, ImageSet, open_images
from engine.events import SILENT, Events
from engine.facts import filled
from engine.files import OURS, explained, make_folder, read_object, remove_leftovers
from engine.locks import locked_folder
from engine.networks.frozen import default_device
from engine.settings.downstream import Distillation

SURE = 30.0
"""The logit of an image's own class over the temperature, where the others are 0: its softmax is 1 but for 1e-12."""
LARGE_PX = 224
CONFIG = "config.json"
TRAINING = "share of training"
"""The task that is reported."""
FITTING = Distillation.fitting()


def fit(
    folder: str | Path,
    out: str | Path,
    architecture: str | None = None,
    *,
    image_px: int | None = None,
    test: str | Path | None = None,
    domain: str | None = None,
    training: Distillation = FITTING,
    seed: int = 0,
    device: str | torch.device | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Train a network with BatchNorm on labelled images and save it for `load_classifier(out)`.

    Args:
        folder: a folder with one subfolder per class, a data set folder, or a parquet file with image and label.
        out: a new folder. If it already contains the result for the same settings and images, nothing is trained.
        architecture: by default resnet20 for inputs of 32 px, otherwise resnet18.
        image_px: input size of the network; by default 32 for images of up to 64 px, otherwise 224.
        test: other images, on which accuracy is measured.
        domain: selects rows of parquet files.
        training: number of epochs, learning rate and the like.
        seed: random seed of the initial weights and the order of the images.
        device: by default the GPU if there is one.
        events: receives progress reports.

    Returns:
        A dictionary of JSON values: classes, number of images, accuracy on the training and test images, and whether
            the network was trained in this call.

    Raises:
        ConfigError: there are fewer than two classes, the architecture is unknown, images differ in size, or the test
            images are of other classes.
        OutputError: `out` contains anything else.
        GuidanceError: the loss becomes NaN or infinite.
    """
    for given, path in (("folder", folder), ("out", out)):
        check_type(given, path, str | Path, "the path of a folder")
    check_type("events", events, Events, "Events, such as Events(print)")
    out, folder = Path(out).expanduser(), Path(folder).expanduser()
    if training.soft_labels != "manifest":
        raise ConfigError(
            f"training.soft_labels is {training.soft_labels!r} and there is no teacher to ask, expected 'manifest', "
            "the images' own classes: start from Distillation.fitting()."
        )
    if image_px is not None and image_px < 8:
        raise ConfigError(f"image_px is {image_px}, expected at least 8: give the side in pixels.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"out is {out}, in the folder of the images, expected another: it would be read as one of their classes. "
            "Choose another one."
        )
    images = _opened(folder, domain, test)
    names = images.labels()
    labels = tuple(sorted(set(names)))
    if len(labels) < 2:
        raise ConfigError(
            f"{folder} has images of {len(labels)} class, expected at least two: put each class into a folder of its "
            "own."
        )
    side = image_px or (32 if _least_side(images) <= SMALL_PX else LARGE_PX)
    name = (architecture or ("resnet20" if side <= SMALL_PX else "resnet18")).removeprefix("arch:")
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"architecture is {architecture!r}, expected one of {', '.join(ARCHITECTURES)}: choose one."
        )
    preprocess = Preprocess.squash(side)
    sets = {"training": _labelled(images, names, labels, preprocess, training.temperature)}
    if test is not None:
        others = _opened(Path(test).expanduser(), domain, folder)
        sets["test"] = _labelled(others, others.labels(), labels, preprocess, training.temperature)
    request: dict[str, Any] = {
        "architecture": name,
        "labels": labels,
        "preprocess": preprocess.to_plain(),
        "seed": seed,
        "training": asdict(training),
        "images": {what: fingerprint_of(found) for what, found in sets.items()},
    }
    make_folder(out)
    with locked_folder(out):
        accuracy = _accuracy_before(out, request)
        trained = accuracy is None
        if accuracy is None:
            network = _new(name, len(labels), seed).to(default_device(device))
            with events.task(TRAINING, 1) as task:
                teach(
                    network,
                    preprocess,
                    lambda _: torch.empty(0),
                    sets["training"],
                    training,
                    seed,
                    task.progress,
                )
            accuracy = {what: _accuracy(network, preprocess, found) for what, found in sets.items()}
            save_classifier(out, network, **request | {"preprocess": preprocess}, accuracy=accuracy)
    return {
        "folder": str(out),
        "architecture": name,
        "classes": list(labels),
        "images": {what: len(found) for what, found in sets.items()},
        "accuracy": accuracy,
        "trained": trained,
    }


def _opened(path: Path, domain: str | None, other: str | Path | None) -> ImageSet:
    """Images in folders of classes, of one size. other: the other set, which a domain may be meant for."""
    if path.is_dir():
        if other is not None and not Path(other).is_dir():
            domain = None
        if not has_manifest(path):
            _check_no_strays(path)
    return open_images(path, domain, one_size=True, takes=IMAGE_SETS)


def _check_no_strays(folder: Path) -> None:
    """Raise ConfigError for images outside the folders of classes: they would be of a class with the folder's name."""
    entries = [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry.name)]
    stray = [entry.name for entry in entries if entry.suffix.lower() in ENDINGS and entry.is_file()]
    classes = [entry.name for entry in entries if entry.is_dir()]
    if stray and classes:
        raise ConfigError(
            f"{folder} has {counted(len(stray), 'image')} outside its folders of classes ({', '.join(stray[:5])}), "
            f"expected each in one of them, such as {classes[0]}: move them there, or take them out."
        )


def _accuracy_before(out: Path, request: dict[str, Any]) -> dict[str, float] | None:
    """What the same classifier reached when it was trained into `out`; None where nothing is there yet.

    Raises OutputError where `out` holds another, or anything else.
    """
    remove_leftovers(out)
    with explained(out):
        names = {entry.name for entry in out.iterdir() if not entry.name.startswith(OURS)}
    if not names - {WEIGHTS}:  # alone, these were cut before their config.json
        return None
    differing = ["it is no classifier of ddis fit"]
    if CONFIG in names:
        there = read_object(out / CONFIG, "delete the folder and run the same command again")
        if "training" in there:
            there["training"] = filled(Distillation, there["training"])
        differing = differences({key: there[key] for key in request if key in there}, request)
        if not differing:
            return there["accuracy"]
    raise OutputError(
        f"{out} holds something else: {'; '.join(differing)}. Expected a new or empty folder, or the same settings and "
        "images: choose another folder."
    )


def _labelled(
    images: ImageSet,
    names: list[str],
    labels: tuple[str, ...],
    preprocess: Preprocess,
    temperature: float,
) -> Images:
    unknown = sorted(set(names) - set(labels))
    if unknown:
        raise ConfigError(
            f"the test images of {images.path} are of {', '.join(map(repr, unknown[:5]))}, expected the training "
            f"images' classes: {', '.join(labels[:20])}. Name them so, or take the others out."
        )
    classes = torch.tensor([labels.index(name) for name in names])
    pixels = read_pixels(images, range(len(names)), preprocess)
    return Images(pixels, classes, SURE * temperature * torch.eye(len(labels))[classes])


def _least_side(images: ImageSet) -> int:
    first = next(images.batches(1))
    return min(first.shape[-2:])


def _new(name: str, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return untrained(name, classes)


def _accuracy(network: nn.Module, preprocess: Preprocess, images: Images) -> float:
    device = next(network.parameters()).device
    found = logits_on(reading(network, preprocess), images, device)
    return (found.argmax(1) == images.classes).float().mean().item()
