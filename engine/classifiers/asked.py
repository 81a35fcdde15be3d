"""What `load_classifier` is asked with: refused where it is of another kind, warned of where something is assumed."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from engine.classifiers.preprocess import Preprocess
from engine.errors import ClassifierWarning, ConfigError, check_type
from engine.settings.reads import Reads


def check_types(source: object, preprocess: object, reads: object) -> None:
    """Raise ConfigError for arguments of another kind, which would end in an error of somebody else's."""
    if not isinstance(source, str | Path | nn.Module):
        what = "weights alone, without their network" if isinstance(source, Mapping) else "none"
        raise ConfigError(
            f"the classifier is a {type(source).__name__} ({what}), expected a source such as 'embedded:photo', the "
            "path of a file, or an nn.Module: hand one of these over."
        )
    check_type("reads", reads, Reads, "Reads, such as Reads(mean=(0.5,), std=(0.5,))")
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise ConfigError(
            f"preprocess is a {type(preprocess).__name__}, expected a Preprocess: its steps must be known, and let a "
            "gradient through. Write it as Preprocess(crop=..., resize=..., mean=..., std=...)."
        )


def warn_of_assumed(name: str, preprocess: Preprocess) -> None:
    height, width = preprocess.crop
    warnings.warn(
        f"the file of classifier {name!r} does not say what it reads: images of {height} x {width} pixels, normalised "
        "with ImageNet's mean and std, are assumed. Set `mean` and `std` (and `channels`, `pixel_max`, `input_px`) "
        "if it was trained otherwise; `ddis doctor` compares them.",
        ClassifierWarning,
        stacklevel=3,
    )


def refuse_beside(architecture: str | None, weights: str | None, name: str) -> None:
    """Raise ConfigError for an architecture or a set of weights where the source says itself what network it is."""
    if weights is not None:
        raise ConfigError(
            f"weights is {weights!r} with classifier {name!r}, expected none: only a checkpoint file may hold several "
            "sets. Leave it out, or name such a file."
        )
    if architecture is not None:
        raise ConfigError(
            f"architecture is {architecture!r} with classifier {name!r}, expected none: only a checkpoint file does "
            "not say what network it is. Leave it out, or name such a file."
        )
