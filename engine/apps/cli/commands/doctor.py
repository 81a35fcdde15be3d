"""`ddis doctor`: whether a classifier is read as it was trained."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.apps.cli import requests
from engine.apps.cli.command import Call, Command, local, needed
from engine.errors import counted
from engine.request import Execution, Request
from engine.settings.fields import check_at_most, check_positive, setting

if TYPE_CHECKING:
    from torch import Tensor

    from engine.classifiers import Classifier

MOST_CLASSES = 16
"""Classes that images are drawn of, from the first on, where none are named."""
BATCH = 32
MOST_EACH = 1000


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Check how a classifier is read: channels, scale, statistics, class names.

    It looks at images of its classes, drawn by the prior or your own, as it is loaded, with the channels the other way
    round, and at other scales. Where another way is recognised clearly better, it says which options ask for that.
    """

    module = "engine.evaluation.doctor"
    options = (
        "request.classifier.architecture",
        "request.classifier.weights",
        "request.classifier.reads.*",
        "request.classifier.labels",
        "request.classifier.statistics",
        "request.prior.source",
        "request.classes",
        "request.seed",
        "request.method.sampling.steps",
        "request.method.sampling.prompt",
        "execution.device",
    )
    methods = ("plain",)

    classifier: str = needed(
        "embedded:<domain>, hf:<id or folder>, timm:<name>, torchvision:<name>, onnx:<file>, or a checkpoint file",
        "CLASSIFIER",
        positional=True,
    )
    images: Path | None = local(
        "images of its classes, one folder a class or a parquet file, in place of drawn ones",
        "IMAGES",
    )
    images_each: int = setting(4, "images of each class that are drawn")
    request: Request = field(default_factory=Request)
    execution: Execution = field(default_factory=Execution)

    def __post_init__(self) -> None:
        check_positive(self, "images_each")
        check_at_most(self, images_each=(MOST_EACH, "they are held in memory"))

    def run(self, call: Call) -> dict[str, Any]:
        from engine.evaluation.doctor import better, by_chance, readings

        source = replace(self.request.classifier, source=self.classifier)
        classifier = requests.load_classifier_of(source, self.execution)
        for line in _known_of(classifier):
            call.screen.say(call.in_flags(line), result=True)
        images, classes = self._images(classifier, call)
        found = readings(classifier, images, classes)
        call.screen.table(
            f"{counted(len(classes), 'image')} through {self.classifier}",
            ["preprocessing", "recognised", "confidence", "classes named"],
            [
                [
                    one.name,
                    "unknown" if one.recognised is None else f"{one.recognised:.0%}",
                    f"{one.confidence:.2f}",
                    str(one.classes),
                ]
                for one in found
            ],
            result=True,
        )
        other = better(found)
        asked = len(self.request.classes or classifier.labels)
        if other is not None:
            said = f"with {other.name} it does clearly better: it was probably trained so. Add {other.options}"
        elif by_chance(found, asked, len(classes)):
            drawn = "the prior does not draw its classes as it knows them: try --images FOLDER of your own, or "
            said = (
                "however it is read, it recognises no more than chance would: its labels are in another order, "
                f"{'' if self.images else drawn}the weights are not those of a trained network"
            )
        else:
            said = "nothing is clearly better than how it is loaded"
        call.screen.say(said, result=True)
        return {
            "classifier": classifier.describe(),
            "images": len(classes),
            "readings": [asdict(one) for one in found],
            "better": None if other is None else other.options,
        }

    def _images(self, classifier: "Classifier", call: Call) -> "tuple[Iterator[Tensor], Tensor]":
        """Batches of images, and the classes of all of them."""
        import torch

        if self.images is not None:
            from engine.datasets.names import class_folders
            from engine.evaluation.images import IMAGE_SETS, open_images

            found = open_images(self.images, takes=IMAGE_SETS)
            folders = class_folders(dict(enumerate(classifier.labels)))
            numbers = {name: number for number, name in folders.items()}
            numbers |= {label: number for number, label in enumerate(classifier.labels)}
            known = [numbers.get(label, -1) for label in found.labels()]
            return found.batches(BATCH), torch.tensor(known)
        from engine.runners.generate import generate

        drawn = list(
            generate(
                classifier,
                self.request.prior.source,
                self.request.classes or classifier.labels[:MOST_CLASSES],
                self.images_each,
                seed=self.request.seed,
                method=self.request.method,
                events=call.events,
            )
        )
        images = torch.stack([one.image for one in drawn])
        return iter(images.split(BATCH)), torch.tensor([one.key.class_index for one in drawn])


def _numbers(values: tuple[float, ...]) -> str:
    """Three numbers, or the one that they all are."""
    different = values[:1] if len(set(values)) == 1 else values
    return ", ".join(f"{value:.4g}" for value in different)


def _known_of(classifier: "Classifier") -> list[str]:
    """What is known of a classifier, as lines for a person."""
    from engine.classifiers.statistics import Absent, Statistics

    reads, known = classifier.preprocess, classifier.statistics
    lines = [
        f"{counted(len(classifier.labels), 'class')}: {', '.join(classifier.labels[:8])}",
        f"it reads images of {reads.crop[0]} x {reads.crop[1]} pixels in the order {reads.channels}, normalised by a "
        f"mean of {_numbers(reads.mean)} and a standard deviation of {_numbers(reads.std)}",
    ]
    if isinstance(known, Statistics):
        lines.append(f"statistics: {known.source}, at {counted(len(known.taps), 'layer call')}")
    elif isinstance(known, Absent):
        lines.append(f"statistics: none, as it {known.found}; {known.remedy}")
    if not classifier.differentiable:
        lines.append("no gradient passes it: it can judge images, and not guide them")
    return lines
