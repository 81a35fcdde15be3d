"""What is kept of a set of images: its features, their moments, the network's logits; measured, saved and read again.

A statistics file is safetensors: `mean` (F,) and `covariance` (F, F) in float64, `features` (N, F) in float32 unless
only moments were asked for, and in its metadata the network that the features are of, the number of images and, where
one was picked, their domain.
"""

import json
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.embedded.judge import load_judge
from engine.errors import ConfigError, brief
from engine.evaluation.extractors import JUDGE, Extractor
from engine.evaluation.features import FeatureFile, RunningMoments
from engine.evaluation.images import ImageSet, Pooled
from engine.evaluation.metrics import ROWS, Features, Gaussian, blocks, gaussian
from engine.events import Advance
from engine.files import make_folder, whole_file

FORMAT = "ddis-statistics/1"
ENDING = ".safetensors"


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """One set of images as a network sees it. features: (N, F), None where only moments were kept.

    domain: the one that was picked from a set of several; None where none was.
    """

    gaussian: Gaussian
    features: Features | None
    domain: str | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        return self.gaussian.rows

    @property
    def width(self) -> int:
        return self.gaussian.mean.shape[0]


@dataclass(frozen=True, eq=False)
class Measured(FeatureStatistics):
    """A set whose images were at hand. logits: (N, K) of the same network."""

    features: Features
    logits: Features


def measure(
    images: ImageSet | Pooled,
    extractor: Extractor,
    batch: int,
    files: ExitStack,
    advance: Advance,
) -> Measured:
    """Features and logits of a set, in one pass. They live in files that `files` closes."""
    features = files.enter_context(FeatureFile(extractor.width))
    logits = files.enter_context(FeatureFile(extractor.classes))
    moments = RunningMoments(extractor.width)
    for part in images.batches(batch):
        rows, scores = extractor(part)
        if not bool(torch.isfinite(rows).all()):
            raise ConfigError(
                f"the features of some images of {images.path} are not finite, expected numbers: check the weights "
                f"behind {extractor.name}."
            )
        features.append(rows)
        logits.append(scores)
        moments.add(rows)
        advance(len(part))
    return Measured(moments.gaussian(), features, logits, domain=images.domain)


def judge_reference(extractor: Extractor, domain: str | None) -> FeatureStatistics:
    """The judge's own features of the real images that the embedded classifiers were trained on, of one domain or all.

    Raises ConfigError for another extractor's features or an unknown domain.
    """
    if not extractor.name.startswith(f"{JUDGE}-"):
        raise ConfigError(
            f"the reference is the judge's and the features are those of {extractor.name}, expected one network for "
            "both: use `features` 'judge', or a reference of images."
        )
    judge = load_judge()
    rows = judge.reference
    if domain is not None:
        if domain not in judge.domains:
            raise ConfigError(
                f"domain {domain!r} is unknown to the judge, expected one of {', '.join(judge.domains)}: choose one."
            )
        rows = rows[judge.reference_domains == judge.domains.index(domain)]
    return FeatureStatistics(gaussian(rows), rows, domain=domain)


def save_statistics(
    path: Path, found: FeatureStatistics, extractor: str, moments_only: bool = False
) -> None:
    """Write a statistics file, whole or not at all; features pass through a block at a time."""
    tensors: dict[str, tuple[str, Features]] = {
        "mean": ("F64", found.gaussian.mean[None]),
        "covariance": ("F64", found.gaussian.covariance),
    }
    if found.features is not None and not moments_only:
        tensors["features"] = ("F32", found.features)
    metadata = {"format": FORMAT, "extractor": extractor, "images": str(found.rows)}
    if found.domain is not None:
        metadata["domain"] = found.domain
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (kind, rows) in tensors.items():
        start, end = end, end + rows.shape[0] * rows.shape[1] * (8 if kind == "F64" else 4)
        shape = list(rows.shape[1:] if name == "mean" else rows.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    make_folder(path.parent)
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for kind, rows in tensors.values():
            for _, block in blocks(rows):
                file.write(block.numpy().astype("<f8" if kind == "F64" else "<f4").tobytes())


def read_statistics(path: Path, extractor: Extractor, files: ExitStack) -> FeatureStatistics:
    """A file of `save_statistics`. Raises ConfigError for any other, or where its features are of another network."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ConfigError(
                    f"{path} is not a file of format {FORMAT!r}, expected statistics of `ddis evaluate "
                    "--save-statistics`: write them again from the images."
                )
            if metadata["extractor"] != extractor.name:
                raise ConfigError(
                    f"{path} has features of {metadata['extractor']} and the folder those of {extractor.name}, "
                    "expected one network for both: choose the same `features`, or write the statistics again."
                )
            kept = Gaussian(
                file.get_tensor("mean"), file.get_tensor("covariance"), int(metadata["images"])
            )
            features = None
            if "features" in file.keys():  # noqa: SIM118  not a dict
                features = files.enter_context(FeatureFile(extractor.width))
                rows = file.get_slice("features")
                for start in range(0, kept.rows, ROWS):
                    features.append(_slice(rows, start))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} cannot be read as statistics ({brief(error)}), expected a whole file of `ddis evaluate "
            "--save-statistics`: write it again from the images."
        ) from error
    return FeatureStatistics(kept, features, domain=metadata.get("domain"))


def _slice(rows: object, start: int) -> Tensor:
    return rows[start : start + ROWS]  # type: ignore[index]
