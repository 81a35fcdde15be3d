"""What the page offers before anything is chosen: classifiers that ship, their classes and tokens, a new folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from engine.apps.cli.requests import load_classifier_of
from engine.apps.demo import shipped_tokens
from engine.apps.studio.form import Form, rows_of
from engine.classifiers.sources import PROCESSOR
from engine.datasets.manifest import MANIFEST
from engine.settings.sources import EMBEDDED

EMBEDDED_SCHEME = "embedded:"
FIRST = "embedded:cartoon"
"""The classifier that is chosen at first."""
MOST_OFFERED = 50
"""Folders that are offered to be opened."""
FEW = 2
"""Classes that are chosen at first."""


@dataclass(frozen=True)
class Offer:
    """What a classifier comes with. tokens: its token file, '' where none ships with it."""

    classifier: str
    labels: tuple[str, ...]
    tokens: str

    @property
    def few(self) -> list[str]:
        """The first classes."""
        return [*self.labels[:FEW]]


def embedded_classifiers() -> list[str]:
    """The names of the classifiers that ship, but for those without BatchNorm, which guide by a statistics file."""
    folders = sorted(EMBEDDED.glob("classifier-*"))
    return [
        EMBEDDED_SCHEME + folder.name.removeprefix("classifier-")
        for folder in folders
        if not (folder / PROCESSOR).exists()
    ]


def offer_of(form: Form) -> Offer:
    """Load the classifier of a form, to say what its classes are. Raises EngineError as a run would."""
    command = rows_of(form)[0].command()
    classifier = load_classifier_of(command.request.classifier, command.execution)
    return Offer(form.classifier, tuple(classifier.labels), tokens_of(form.classifier))


def tokens_of(classifier: str) -> str:
    """The token file that ships for a classifier, ''  where there is none."""
    if not classifier.startswith(EMBEDDED_SCHEME):
        return ""
    file = shipped_tokens(classifier.removeprefix(EMBEDDED_SCHEME))
    return str(file) if file.is_file() else ""


def new_folder(place: Path) -> str:
    """A folder in `place` that does not exist: the first free number."""
    return next(str(place / str(n)) for n in count(1) if not (place / str(n)).exists())


def finished_folders(place: Path) -> list[str]:
    """Data sets in `place` and in its folders, the latest first."""
    found = [file for depth in ("*", "*/*") for file in place.glob(f"{depth}/{MANIFEST}")]
    latest = sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
    return [str(file.parent) for file in latest[:MOST_OFFERED]]


def some_of(labels: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """The chosen labels that there are; the first few where there is none of them."""
    kept = [label for label in chosen if label in labels]
    return kept or [*labels[:FEW]]
