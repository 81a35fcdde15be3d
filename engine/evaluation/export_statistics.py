"""Write what a classifier's owner can tell of its training images: moments of its layers, in one pass over them.

The images are streamed: moments of each batch are merged with those before by Chan's rule in float64, which is exact
however they are divided. The file holds averages, the classifier's fingerprint and no image.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier, load_classifier
from engine.classifiers.statistics.file import (
    Header,
    network_mark,
    plain_preprocess,
    write_statistics_file,
)
from engine.classifiers.statistics.layers import Call
from engine.errors import ConfigError, EngineWarning, check_type, counted
from engine.evaluation.class_features import ClassFeatures, last_features, recording_input
from engine.evaluation.images import IMAGE_SETS, ImageSet, Pooled, open_images
from engine.evaluation.layer_moments import (
    chosen_calls,
    merged_moments,
    noise_images,
    taps_of,
)
from engine.evaluation.privacy import PrivateMoments
from engine.evaluation.teacher import class_of_each
from engine.events import SILENT, Advance, Events
from engine.files import check_writable
from engine.guidance.moments import recording_moments
from engine.settings.sources import STATISTICS_ENDING
from engine.settings.statistics import StatisticsExport
from engine.types import Moments

FEW = 100
"""Below so many images, the warning says that there are few."""
TASK = "images measured"


class ExactStatisticsWarning(EngineWarning):
    """A file of exact averages tells something of the images."""


def export_statistics(
    classifier: str | Path | nn.Module | Classifier,
    images: str | Path,
    out: str | Path,
    settings: StatisticsExport = StatisticsExport(),
    *,
    domain: str | None = None,
    device: str | torch.device | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Measure a classifier's layers over images, usually its training images, and write a statistics file.

    Args:
        classifier: in float32, or what `load_classifier` takes.
        images: a folder of images, a data set of ours, or a parquet file.
        out: the file, whose name ends in .safetensors. It appears whole or not at all.
        settings: which layers, and with how much privacy.
        domain: only the rows of this value in a parquet file's column 'domain'.
        device: of a classifier that is loaded here.
        events: where progress is reported.

    Returns:
        As JSON values: the file, the number of images, the layers and the privacy.

    Raises:
        ConfigError: for settings, images or layers that do not fit.
        OutputError: where the file cannot be written.
    """
    check_type("images", images, str | Path, "the path of a folder or of a parquet file")
    check_type("out", out, str | Path, "the path of a file")
    check_type("events", events, Events, "Events, such as Events(print)")
    out = Path(out).expanduser()
    if out.suffix != STATISTICS_ENDING:
        raise ConfigError(
            f"out is {out}, expected a name that ends in {STATISTICS_ENDING}: by the ending `statistics` knows that a "
            "file is meant. Rename it."
        )
    check_writable(out)
    found = open_images(images, domain, takes=IMAGE_SETS)
    count = found.count()
    if count < 2:
        raise ConfigError(
            f"{images} has {counted(count, 'image')}, expected at least 2: the moments of a single one "
            "tell all of it. Give a folder of images, or a parquet file."
        )
    if not isinstance(classifier, Classifier):
        classifier = load_classifier(classifier, device=device, statistics="none")
    if classifier.dtype != torch.float32:
        raise ConfigError(
            f"classifier {classifier.name!r} is in {classifier.dtype}, expected float32: moments of rounded layers are "
            "not those of others. Load it with dtype 'float32'."
        )
    calls = chosen_calls(classifier, settings.layers)
    private = None if settings.epsilon is None else _private(classifier, calls, settings, count)
    with events.task(TASK, count) as task:
        if private is not None:
            moments = _released(classifier, calls, found, settings, private, task.progress)
            features: dict[str, Tensor] = {}
        else:
            _warn(count)
            moments, features = _exact(classifier, calls, found, settings, task.progress)
    privacy = _guarantee(settings, private)
    header = Header(
        classifier=classifier.name,
        network=network_mark(classifier.network),
        preprocess=plain_preprocess(classifier.preprocess),
        images=count,
        calls=[(call.path, call.of) for call in calls],
        privacy=privacy,
    )
    write_statistics_file(out, header, moments, features)
    return {
        "file": str(out),
        "images": count,
        "layers": [
            {"layer": call.path, "of": call.of, "channels": call.channels} for call in calls
        ],
        "features": sorted(features),
        "privacy": privacy,
    }


@torch.no_grad()
def _exact(
    classifier: Classifier,
    calls: Sequence[Call],
    images: ImageSet,
    settings: StatisticsExport,
    advance: Advance,
) -> tuple[list[Moments], dict[str, Tensor]]:
    """Moments of each call over all images, and what is asked for of the last features."""
    last, width = last_features(classifier) if settings.features else (None, 0)
    classes = class_of_each(Pooled((images,)), classifier) if settings.features else None
    kept = ClassFeatures(len(classifier.labels), width)
    with recording_input(last) as rows:

        def look(seen: int, part: Tensor) -> None:
            if classes is not None:
                kept.add(rows[-1].cpu(), classes[seen : seen + len(part)])
                rows.clear()
            advance(len(part))

        merged = merged_moments(classifier, calls, images.batches(settings.image_batch), look)
    broken = [
        call.path
        for call, one in zip(calls, merged, strict=True)
        if not bool(one.mean.isfinite().all() and one.var.isfinite().all())
    ]
    if broken:
        raise ConfigError(
            f"the moments of {', '.join(map(repr, broken[:4]))} are not finite, expected numbers: the classifier "
            "overflows on these images, or its weights are damaged. Check both, or name other `layers`."
        )
    return merged, {} if classes is None else kept.tensors()


@torch.no_grad()
def _released(
    classifier: Classifier,
    calls: Sequence[Call],
    images: ImageSet,
    settings: StatisticsExport,
    private: PrivateMoments,
    advance: Advance,
) -> list[Moments]:
    """Moments of each call over all images, with noise."""
    taps = taps_of(classifier, calls)
    for part in images.batches(settings.image_batch):
        with recording_moments(taps, per_image=True) as taken:
            classifier.logits(part.to(classifier.device))
            private.add(taken)
        advance(len(part))
    return private.release()


def _private(
    classifier: Classifier, calls: Sequence[Call], settings: StatisticsExport, count: int
) -> PrivateMoments:
    """The mechanism, with the units of public images. Raises ConfigError for too few images."""
    assert settings.epsilon is not None
    batches: Iterable[Tensor]
    if settings.public is None:
        batches = [noise_images(classifier.preprocess.crop)]
    else:
        batches = open_images(settings.public, takes=IMAGE_SETS).batches(settings.image_batch)
    public = merged_moments(classifier, calls, batches)
    return PrivateMoments(public, settings.epsilon, settings.delta, settings.clip, count)


def _guarantee(settings: StatisticsExport, private: PrivateMoments | None) -> dict[str, Any] | None:
    if private is None:
        return None
    return {
        "mechanism": "Gaussian, on the sum of one clipped vector for each image",
        "adjacency": "replacing one image; the number of images is public",
        "epsilon": settings.epsilon,
        "delta": settings.delta,
        "clip": settings.clip,
        "public": "noise" if settings.public is None else "images",
        "noise": private.noise / private.images,
    }


def _warn(count: int) -> None:
    few = f" {count} images are few." if count < FEW else ""
    warnings.warn(
        f"the file holds exact averages over {count} images. It contains no image, but anyone who knows all images "
        f"but one can work out what the last one contributed.{few} Set `epsilon` to hide each image behind noise.",
        ExactStatisticsWarning,
        stacklevel=3,
    )
