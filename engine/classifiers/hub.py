"""Classifiers of other libraries: transformers, and where they are installed timm and torchvision."""

import json
import re
import warnings
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from engine.classifiers.base import Found
from engine.classifiers.checkpoints import BROKEN
from engine.classifiers.image_processor import from_image_processor
from engine.classifiers.outputs import GreyInput
from engine.classifiers.preprocess import Preprocess
from engine.errors import ClassifierWarning, EngineError, MissingExtraError, ModelError, brief
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quiet import quiet

FAILURES = (*BROKEN, UnpicklingError)
"""What these libraries raise for models that are unknown, unreachable or broken."""
NO_NAME = re.compile(r"LABEL_\d+")
"""transformers' own label for a class that nobody named."""


def from_transformers(name: str) -> Found:
    """'hf:<hub id or folder>': an image classifier with its image processor's settings and `id2label`."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(name):
            raise ModelError(
                f"unknown transformers classifier {name!r}, expected a local folder or a hub id such as "
                "'microsoft/resnet-18': check the spelling, or that the folder exists."
            )
        folder = fetch(name, ["config.json", "preprocessor_config.json", "model*.safetensors*"])
    _check_code(name, folder)
    try:
        with quiet():
            network, loading = AutoModelForImageClassification.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except FAILURES as error:
        raise ModelError(
            f"{name!r} cannot be read as a transformers image classifier ({brief(error)}), expected "
            "config.json and model.safetensors in it: save the model with save_pretrained(..., "
            "safe_serialization=True)."
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            f"the weights of {name!r} lack {', '.join(sorted(loading['missing_keys'])[:3])}, expected a "
            "whole image classifier: this is a backbone, whose head would be random. Train a head, and save "
            "the classifier."
        )
    if loading["unexpected_keys"]:
        keys = sorted(loading["unexpected_keys"])
        warnings.warn(
            f"the weights of {name!r} hold {len(keys)} tensors that its network does not have (first: {keys[0]}): its "
            "config.json may be another network's.",
            ClassifierWarning,
            stacklevel=2,
        )
    if getattr(network.config, "num_channels", 3) == 1:
        network = GreyInput(network)
        network.config = network.network.config
    names = [label for _, label in sorted(network.config.id2label.items())]
    named = not all(NO_NAME.fullmatch(label) for label in names)
    preprocess, unread = _described(folder / "preprocessor_config.json")
    return Found(network, preprocess, names if named else None, unread=unread)


def _described(settings: Path) -> tuple[Preprocess | None, ModelError | None]:
    """The preprocessing of an image processor's file, or why it cannot be used; neither without a file."""
    if not settings.is_file():
        return None, None
    try:
        return from_image_processor(json.loads(settings.read_text())), None
    except EngineError as error:
        return None, ModelError(
            f"{settings} cannot be used: {error} Or set `input_px`, `mean` and `std`, which then replace the file."
        )
    except FAILURES as error:
        return None, ModelError(
            f"{settings} cannot be read ({brief(error)}), expected the settings of an image processor: save the "
            "processor with save_pretrained, or set `input_px`, `mean` and `std`, which then replace the file."
        )


def _check_code(name: str, folder: Path) -> None:
    """Raise ModelError for a repository whose network is its own Python code, which is never run."""
    config = folder / "config.json"
    try:
        found = json.loads(config.read_bytes()) if config.is_file() else {}
    except ValueError:
        return  # the library says what is wrong with it
    if isinstance(found, dict) and found.get("auto_map"):
        raise ModelError(
            f"{name!r} is a network of its own Python code ({', '.join(sorted(found['auto_map']))}), expected one that "
            "transformers has: code from a repository is never run. Where you trust it, load it in Python with "
            "trust_remote_code=True and hand the network over."
        )


def from_timm(name: str) -> Found:
    """'timm:<name>', 'timm:hf-hub:<id>' or 'timm:local-dir:<folder>': pretrained, with timm's own data settings."""
    timm = _extra("timm")
    advice = _timm_advice(timm, name)
    try:
        network = timm.create_model(name, pretrained=True)
    except FAILURES as error:
        raise ModelError(
            f"timm did not give a pretrained {name!r} ({brief(error)}), {advice}"
        ) from error
    data = timm.data.resolve_model_data_config(network)
    height, width = data["input_size"][1:]
    whole = (int(height / data["crop_pct"]), int(width / data["crop_pct"]))
    preprocess = Preprocess(
        crop=(height, width),
        # Squares, as generated, must cover both sides.
        resize=whole if data["crop_mode"] == "squash" else max(whole),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
    )
    return Found(network, preprocess, _timm_labels(timm, network))


def from_torchvision(name: str) -> Found:
    """'torchvision:<name>': its default weights with their own transforms and categories."""
    models = _extra("torchvision").models
    known = list(models.list_models(module=models))
    if name not in known:
        raise ModelError(
            f"unknown torchvision classifier {name!r}, expected one of {', '.join(known)}: check the "
            "spelling."
        )
    weights = models.get_model_weights(name).DEFAULT
    rescales = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(
        name, weights=None, num_classes=len(weights.meta["categories"]), **rescales
    )
    try:
        state = weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except FAILURES as error:
        raise ModelError(
            f"the weights of torchvision's {name!r} could not be read ({brief(error)}), expected the file of "
            f"{weights.url} in {torch.hub.get_dir()}/checkpoints: fetch it on a machine with network and put "
            "it there, or pass a checkpoint file."
        ) from error
    shape = weights.transforms()
    (crop,), (resize,) = shape.crop_size, shape.resize_size
    preprocess = Preprocess(
        crop=(crop, crop),
        resize=resize,
        mean=tuple(shape.mean),
        std=tuple(shape.std),
        interpolation="bicubic" if shape.interpolation.value == "bicubic" else "bilinear",
    )
    return Found(network, preprocess, weights.meta["categories"])


def _timm_advice(timm: ModuleType, name: str) -> str:
    """What to do should a name of timm's not load. Raises ModelError where timm does not know it."""
    scheme, _, repository = name.rpartition(":")
    if scheme == "local-dir":
        return "expected a folder with config.json and model.safetensors: write it with timm.models.save_for_hf."
    if not scheme:
        try:
            repository = timm.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id
        except RuntimeError as error:
            raise ModelError(
                f"unknown timm classifier {name!r} ({brief(error)}), expected one of timm.list_pretrained(), "
                "'hf-hub:<id>' or 'local-dir:<folder>': check the spelling."
            ) from error
    if not repository:
        return "expected one of timm.list_pretrained(): timm has this network without weights. Choose another."
    return (
        f"expected {repository!r} on the hub or in its cache: without network run `hf download {repository} "
        "--local-dir FOLDER` elsewhere, bring FOLDER here and write 'timm:local-dir:FOLDER'."
    )


def _timm_labels(timm: ModuleType, network: nn.Module) -> list[str] | None:
    """Class names from the model's own config, else ImageNet's where the number of classes says so."""
    config = cast(dict[str, Any], network.pretrained_cfg)
    names = config.get("label_names")
    described = config.get("label_descriptions") or {}
    if names:
        return [described.get(label, label) for label in names]
    subset = timm.data.infer_imagenet_subset(network)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else None


def _extra(package: str) -> ModuleType:
    try:
        return import_module(package)
    except (ImportError, RuntimeError) as error:  # the latter: a torchvision for CUDA, a CPU torch
        raise MissingExtraError(
            f"{package} cannot be imported ({brief(error)}), expected the packages of the extra 'timm': "
            "install them with `pip install 'ddis[timm]'` on a machine with a CUDA torch."
        ) from error
