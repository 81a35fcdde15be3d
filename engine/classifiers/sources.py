"""Where classifiers come from: the embedded ones, files and folders, transformers, timm, torchvision, Python."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from transformers import ResNetForImageClassification

from engine.classifiers.architectures import ARCHITECTURES, LARGE, RESIDUAL, residual_config
from engine.classifiers.asked import check_types, refuse_beside, warn_of_assumed
from engine.classifiers.base import Classifier, Found, frozen_classifier
from engine.classifiers.checkpoints import load_architecture
from engine.classifiers.hub import from_timm, from_torchvision, from_transformers
from engine.classifiers.imagenet import WORD as IMAGENET
from engine.classifiers.labels import listed, of_imagenet
from engine.classifiers.onnx import from_onnx
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.statistics import BATCH_NORM
from engine.classifiers.trial import own_copy
from engine.classifiers.untrained import measure_statistics
from engine.errors import ConfigError, ModelError, brief
from engine.files import explained, read_explained, write_whole
from engine.networks.frozen import default_device, named_dtype, seeded
from engine.settings.plain import nearest
from engine.settings.reads import Reads
from engine.settings.sources import ARCHITECTURE, EMBEDDED, check_classifier, embedded_classifiers

PROCESSOR = "preprocessor_config.json"
"""In a folder of transformers, how images are read."""
CHECKSUM = "sha256"
"""Of the weights, in a folder's config.json."""


def load_classifier(
    source: str | Path | nn.Module,
    *,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    statistics: str = BATCH_NORM,
    weights: str | None = None,
    reads: Reads = Reads(),
) -> Classifier:
    """Load and freeze a classifier. Any network will do; guidance by statistics needs one that has some.

    Args:
        source: 'embedded:<domain>', 'embedded:<domain>-convnext' for one without BatchNorm, 'hf:<hub id or folder>',
            'timm:<name>', 'torchvision:<name>', 'onnx:<file>', 'arch:<resnet18, 34 or 50>' with random weights and an
            output for each label (ImageNet's 1,000 without labels), a folder written by `save_classifier`, a checkpoint
            file (with `architecture`), or an nn.Module, of which a copy is frozen.
        architecture: the network of a checkpoint file, a name of `ARCHITECTURES`.
        labels: class names in the order of the outputs, or by their numbers; 'imagenet' for the names of ImageNet's
            classes. Files and modules need them; others have their own.
        preprocess: from images in [0, 1] to what the network reads. Modules need it; others have their own.
        device: by default the GPU where there is one; on 'meta' an 'arch:' network is made without weights.
        dtype: of the network but for its BatchNorm layers; 'auto' is the device's fastest (`DTYPES`).
        statistics: where they come from, a name of `statistics.SOURCES`, or 'none'.
        weights: which set of weights of a checkpoint file that holds several, by its name in the file.
        reads: settings in place of some of the source's own preprocessing.

    Raises:
        ModelError: where the source is unknown, unreachable, unsafe or damaged, or its network cannot be used.
        ConfigError: where the labels do not fit, or a source that needs no architecture came with one.

    Warns:
        ClassifierWarning: where something had to be assumed, or looks wrong.
    """
    check_types(source, preprocess, reads)
    if isinstance(source, nn.Module):
        name = type(source).__name__
        named = listed(labels, name)
        refuse_beside(architecture, weights, name)
        found = Found(own_copy(source), None, None)
    else:
        name = str(source)
        named = listed(labels, name)
        found = _find(name, architecture, weights, named, str(device) == "meta")
    preprocess = preprocess or found.preprocess
    if preprocess is None:
        if reads.input_px is None or not reads.is_normalising:
            raise found.unread or ConfigError(
                f"classifier {name!r} came without preprocessing, expected what it was trained with: set `input_px`, "
                "`mean` and `std`, or in Python pass preprocess=Preprocess(crop=..., resize=..., mean=..., std=...)."
            )
        preprocess = Preprocess.squash(reads.input_px)
    elif found.assumed and preprocess is found.preprocess and not reads.is_normalising:
        warn_of_assumed(name, preprocess.reading(reads))
    place_on = default_device(device)
    return frozen_classifier(
        name,
        found.network,
        preprocess.reading(reads),
        of_imagenet(name, named, found.labels),
        place_on,
        named_dtype(dtype, place_on),
        str(statistics),
    )


def save_classifier(
    folder: Path,
    network: nn.Module,
    *,
    architecture: str,
    labels: Sequence[str],
    preprocess: Preprocess,
    **facts: object,
) -> None:
    """Write a network of `ARCHITECTURES` as model.safetensors and config.json, to be read by `load_classifier(folder)`.

    Convolutions and matrices are kept in float16; vectors in float32, as running variances may leave float16's range.
    Each file appears whole or not at all; config.json goes first and comes last, and a folder without it is no
    classifier's. facts: anything else worth keeping in it (data, recipe, seed, accuracy).

    Raises ConfigError for another architecture, OutputError for a folder that cannot be written.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"architecture is {architecture!r}, expected one of {', '.join(ARCHITECTURES)}: only these can "
            "be loaded again. Choose one."
        )
    weights = {
        key: value.detach().cpu().to(torch.float16 if value.dim() > 1 else value.dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    with explained(folder):
        (folder / "config.json").unlink(missing_ok=True)
    content = save(weights)
    write_whole(folder / "model.safetensors", content)
    config = {
        "architecture": architecture,
        "labels": list(labels),
        "preprocess": preprocess.to_plain(),
        **facts,
        CHECKSUM: sha256(content).hexdigest(),
    }
    write_whole(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def _find(
    source: str,
    architecture: str | None,
    weights: str | None,
    labels: Sequence[str] | None,
    shapes_alone: bool,
) -> Found:
    scheme, colon, name = source.partition(":")
    if scheme == "arch" and colon:
        refuse_beside(architecture, weights, source)
        own = None if labels == (IMAGENET,) else labels
        return _from_architecture(name, own, shapes_alone)
    if colon and scheme in SCHEMES:
        refuse_beside(architecture, weights, source)
        return SCHEMES[scheme](name)
    path = Path(source).expanduser()
    if path.is_dir():
        refuse_beside(architecture, weights, source)
        return _from_folder(path)
    check_classifier(source)
    return Found(*load_architecture(path, architecture, weights), None, assumed=True)


def _from_architecture(name: str, labels: Sequence[str] | None, shapes_alone: bool) -> Found:
    """'arch:resnet50': an untrained network of that depth, for plans, benchmarks, and classes without a classifier.

    shapes_alone: on 'meta', without weights and statistics.
    """
    known = {f"resnet{depth}": depth for depth in RESIDUAL}
    check_classifier(f"{ARCHITECTURE}{name}")
    config = residual_config(known[name], num_labels=len(labels or range(1000)))
    if shapes_alone:
        with torch.device("meta"):
            network = ResNetForImageClassification(config)
    else:
        with seeded():
            network = ResNetForImageClassification(config)
            measure_statistics(network, LARGE)
    return Found(
        network, LARGE, labels or [f"class {number}" for number in range(network.config.num_labels)]
    )


def _from_embedded(domain: str) -> Found:
    folder = EMBEDDED / f"classifier-{domain}"
    source, there = f"embedded:{domain}", embedded_classifiers(EMBEDDED)
    if source not in there:
        known = ", ".join(map(repr, there)) or "none: the package came without its weights"
        raise ModelError(
            f"unknown domain {domain!r} of the embedded classifiers, expected one of these: {known}. Choose "
            f"one, or train others with `python -m engine.embedded.train`.{nearest(source, there)}"
        )
    return (
        from_transformers(str(folder)) if (folder / PROCESSOR).is_file() else _from_folder(folder)
    )


def _from_folder(folder: Path) -> Found:
    """A folder of `save_classifier`."""
    try:
        config = json.loads((folder / "config.json").read_text())
        architecture, labels = config["architecture"], config["labels"]
        preprocess = Preprocess.from_dict(config["preprocess"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"folder {folder} cannot be read as a classifier ({brief(error)}), expected config.json with "
            f"architecture, labels and preprocess beside model.safetensors: write 'hf:{folder}' for a "
            "transformers folder; else save it with save_classifier."
        ) from error
    weights = folder / "model.safetensors"
    if CHECKSUM in config and weights.is_file():  # folders of old have none
        with read_explained(weights):
            found = sha256(weights.read_bytes()).hexdigest()
        if found != config[CHECKSUM]:
            raise ModelError(
                f"{weights} has another checksum than config.json beside it says, expected the weights as they were "
                f"written: bring a copy or train again; if they were changed on purpose, take {CHECKSUM!r} out of "
                "config.json."
            )
    network, _ = load_architecture(weights, architecture)
    return Found(network, preprocess, labels)


SCHEMES: dict[str, Callable[[str], Found]] = {
    "embedded": _from_embedded,
    "hf": from_transformers,
    "onnx": from_onnx,
    "timm": from_timm,
    "torchvision": from_torchvision,
}
