"""Class labels -> folder names that are safe on every system and unique, with the labels kept beside them."""

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigError
from engine.image_key import ImageKey

LABELS = "labels.json"
IMAGES = "images"
"""The folder of the images, in that of a data set."""
MAX_LETTERS = 60
_WINDOWS_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)),
}
_SPLIT_WORDS = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)


def check_labels(labels: Mapping[int, str]) -> None:
    """Raise ConfigError where there is no label, or one is empty or given twice."""
    if not labels:
        raise ConfigError("the run has no classes, expected at least one: give class names.")
    seen: dict[str, int] = {}
    for number, label in labels.items():
        if not label.strip():
            raise ConfigError(
                f"the label of class {number} is {label!r}, expected a name: give each class a name."
            )
        if label in seen:
            raise ConfigError(
                f"classes {seen[label]} and {number} are both called {label!r}, expected different names: "
                "rename one, for instance by adding what tells them apart."
            )
        seen[label] = number


def class_folders(labels: Mapping[int, str]) -> dict[int, str]:
    """The folder name of each class. Equal labels give equal names, whatever was written before."""
    check_labels(labels)
    taken: set[str] = set()
    folders = {}
    for number in sorted(labels):
        name = safe_name(labels[number]) or f"class_{number}"
        while name.casefold() in taken:
            name = f"{name}_{number}"
        taken.add(name.casefold())
        folders[number] = name
    return folders


def labels_json(labels: Mapping[int, str]) -> bytes:
    """The content of LABELS: loaders number the folders by name, not by class."""
    classes = [
        {"class": number, "label": labels[number], "folder": name}
        for number, name in class_folders(labels).items()
    ]
    return json.dumps(classes, indent=2, ensure_ascii=False).encode() + b"\n"


def safe_name(label: str) -> str:
    """One path component without separators, device names or hidden dots; '' if nothing of the label is left.

    A word that Hugging Face's image folder loader would take for a split ('bullet train', 'test tube') gets a capital:
    otherwise the loader would put that class into a split of its own and drop the others.
    """
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFKC", label))
    name = name.strip("._-")[:MAX_LETTERS].rstrip("._-")
    name = _SPLIT_WORDS.sub(lambda found: found.group().capitalize(), name)
    return f"{name}_class" if name.split(".")[0].casefold() in _WINDOWS_DEVICES else name


def image_place(folders: Mapping[int, str], key: ImageKey) -> Path:
    """Where an image is in its data set. folders: by class, as `class_folders` gives them."""
    return Path(IMAGES, folders[key.class_index], f"{key.index:05d}.png")
