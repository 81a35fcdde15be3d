"""Names that can be checked without importing a library, so that a wrong one is refused at once.

A test compares the names of models with the tables that load them; the table of statistics is here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.errors import ConfigError, ModelError
from engine.settings.plain import nearest

EMBEDDED = Path(__file__).parents[1] / "embedded" / "weights"
"""The models that ship."""
ARCHITECTURE = "arch:"
"""The prefix of a model with random weights."""
DEVICES = ("cpu", "cuda")
"""The kinds of devices that the kernels and the memory plan are for."""
CLASSIFIER_ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
PRIOR_ARCHITECTURES = (
    *("sd-1.5", "sd-2.1-base", "sd-2.1", "sdxl", "sd-3-medium", "sd-3.5-medium", "sd-3.5-large"),
    *("pixart-alpha", "pixart-sigma", "sana-1.6b", "flux.1-dev", "flux.1-schnell", "chroma"),
    *("flux.2-klein-4b", "flux.2-klein-9b", "z-image", "lumina-2", "auraflow", "qwen-image"),
)
CLASSIFIER_SCHEMES = ("arch", "embedded", "hf", "onnx", "timm", "torchvision")
"""The prefixes, before the colon, of a classifier's source."""
CLASSIFIERS = (
    "'embedded:<domain>', 'hf:<hub id or folder>', 'timm:<name>', 'torchvision:<name>', 'onnx:<file>', "
    "'arch:<resnet18, 34 or 50>', a folder of save_classifier, or a checkpoint file with architecture=..."
)


class StatisticsEntry(NamedTuple):
    """A line of the registry.

    Attributes:
        place: "module:function" of the source, an `engine.classifiers.statistics.StatisticsSource`.
        help: what the option's help says about it.
    """

    place: str
    help: str


BATCH_NORM = "batch-norm"
FILE = "file"
"""The source that a path names; nobody writes the word."""
NO_STATISTICS = "none"
"""The name for using no statistics."""
STATISTICS = {
    BATCH_NORM: StatisticsEntry(
        "engine.classifiers.statistics.batch_norm:batch_norm",
        "batch-norm (what its layers stored)",
    ),
    FILE: StatisticsEntry(
        "engine.classifiers.statistics.file:from_file", "a file from `ddis statistics`"
    ),
    "energy": StatisticsEntry("engine.classifiers.statistics.energy:energy", "energy"),
    "patch-entropy": StatisticsEntry(
        "engine.classifiers.statistics.patch_entropy:patch_entropy",
        "patch-entropy (neither needs images)",
    ),
}
"""Sources of a classifier's statistics, by name. To add a source, write it and add a line here."""
STATISTICS_HELP = ", ".join(entry.help for entry in STATISTICS.values())
STATISTICS_ENDING = ".safetensors"


def statistics_source(text: str) -> tuple[str, str]:
    """Return the name of a source of statistics and its argument; the path of a file gives ("file", path).

    Raises ConfigError unless the text is a known name, 'none' or a path; FILE alone is neither.
    """
    name, _, argument = text.partition(":")
    names = [one for one in (*STATISTICS, NO_STATISTICS) if one != FILE]
    if name in names or (name == FILE and argument):
        return name, argument
    if text.endswith(STATISTICS_ENDING) or Path(text).expanduser().is_file():
        return FILE, text
    raise ConfigError(
        f"statistics is {text!r}, expected one of {', '.join(map(repr, names))}, or the path of a file of `ddis "
        f"statistics` ({STATISTICS_ENDING}): choose one of these.{nearest(name, names)}"
    )


def embedded_classifiers(weights: Path = EMBEDDED) -> list[str]:
    """The sources of the classifiers that ship, such as 'embedded:photo'."""
    prefix = "classifier-"
    return sorted(
        f"embedded:{path.name.removeprefix(prefix)}" for path in weights.glob(f"{prefix}*")
    )


def check_device(device: str | None) -> None:
    """Raise ConfigError for a device of another kind than DEVICES. It need not be in this machine."""
    if device is not None and device.partition(":")[0] not in DEVICES:
        raise ConfigError(
            f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:<number>': the kernels and the memory plan are for "
            "these alone. Choose one of them."
        )


def check_prior(source: str) -> None:
    """Raise ModelError if the source of a prior names an unknown architecture."""
    if source.startswith(ARCHITECTURE):
        name = source.removeprefix(ARCHITECTURE)
        _check_architecture(
            name, PRIOR_ARCHITECTURES, "a prior", "name a folder or hub id to load weights"
        )


def check_classifier(source: str) -> None:
    """Raise ModelError if the source of a classifier is of an unknown kind or names an unknown architecture."""
    scheme, colon, name = source.partition(":")
    if source.startswith(ARCHITECTURE):
        _check_architecture(
            name, CLASSIFIER_ARCHITECTURES, "a classifier", "load a trained network"
        )
    elif not (colon and scheme in CLASSIFIER_SCHEMES):
        path = Path(source).expanduser()
        if not (path.is_dir() or path.is_file() or path.suffix):
            raise ModelError(
                f"unknown classifier {source!r}, expected {CLASSIFIERS}: check the spelling, or that the file exists."
                f"{nearest(source, embedded_classifiers())}"
            )


def _check_architecture(name: str, known: Sequence[str], of: str, otherwise: str) -> None:
    if name not in known:
        raise ModelError(
            f"unknown architecture {name!r} of {of}, expected one of "
            f"{', '.join(ARCHITECTURE + one for one in known)}: choose one of these, or {otherwise}."
            f"{nearest(ARCHITECTURE + name, [ARCHITECTURE + one for one in known])}"
        )
