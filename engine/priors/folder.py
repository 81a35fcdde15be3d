"""Reading a folder in diffusers' format: any pipeline of which diffusers and transformers have the classes.

Each part is read by the class that `model_index.json` names, from safetensors, and must be whole. No
code and no pickle of a repository is ever run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, DiffusionPipeline, SchedulerMixin
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase

from engine.errors import ModelError, brief
from engine.networks.frozen import safe_dtype
from engine.networks.quiet import quiet
from engine.priors.tiny_sources import FAILURES, whole_part

INDEX = "model_index.json"
LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""How the files of weights begin, by library."""
WITHOUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that no prior needs."""
OFF = ("requires_safety_checker", "add_watermarker")
"""Arguments of pipelines' constructors that are switched off."""
STABLE_DIFFUSION = "StableDiffusionPipeline"
DISTILLED = ("LCMScheduler",)
"""Schedulers of networks that were distilled for their steps, and have no others."""
VARIANT = re.compile(r"(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
"""What follows the stem of a file of weights."""


@dataclass(frozen=True)
class Index:
    """What `model_index.json` says: the pipeline's class, its parts' classes, and other arguments."""

    kind: type
    parts: Mapping[str, tuple[str, type]]
    arguments: Mapping[str, Any]

    @property
    def weights(self) -> dict[str, str]:
        """How the files of weights begin, by part."""
        return {
            name: STEMS[library]
            for name, (library, part) in self.parts.items()
            if issubclass(part, nn.Module)
        }


def read_index(folder: Path, source: str) -> Index:
    """The index of a folder. Raises ModelError for one with classes that are not the libraries' own."""
    try:
        with quiet():
            values = DiffusionPipeline.load_config(folder)
            if not isinstance(values, dict):
                raise TypeError(f"{INDEX} holds a {type(values).__name__}, not an object")
    except FAILURES as error:
        raise _unreadable(source, folder, error) from error
    name = values.get("_class_name")
    with quiet():
        kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, DiffusionPipeline)):
        raise ModelError(
            f"prior {source!r} is a {name}, expected a pipeline class of diffusers {diffusers.__version__}: choose "
            "another model, or a newer diffusers."
        )
    parts: dict[str, tuple[str, type]] = {}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("_") or key in WITHOUT:
            continue
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] is not None:
            parts[key] = (str(value[0]), _class_of(str(value[0]), str(value[1]), source))
        elif key not in signature(kind).parameters:
            continue
        elif value == [None, None]:  # a part that the pipeline was saved without
            arguments[key] = None
        elif not isinstance(value, list | tuple):
            arguments[key] = value
    return Index(kind, parts, arguments)


def _class_of(library: str, name: str, source: str) -> type:
    found = getattr(LIBRARIES.get(library), name, None)
    if not isinstance(found, type):
        raise ModelError(
            f"a part of prior {source!r} is a {library}.{name}, expected a class of {' or '.join(LIBRARIES)}: code "
            "that comes with a model is not run. Choose a model without it."
        )
    return found


def patterns(index: Index, variant: str | None, hollow: bool) -> list[str]:
    """The files of a repository that are read, and no others: many hold the same weights many times.

    hollow: whether configs are enough.
    """
    settings = [INDEX, *(f"{name}/*.json" for name in index.parts)]
    settings += [
        f"{name}/*"
        for name, (_, part) in index.parts.items()
        if issubclass(part, PreTrainedTokenizerBase | SchedulerMixin)
    ]
    dot = f".{variant}" if variant else ""
    tails = (".safetensors", "-0*.safetensors")
    weights = [
        f"{name}/{stem}{dot}{tail}" for name, stem in index.weights.items() for tail in tails
    ]
    return settings if hollow else [*settings, *weights]


def read_pipeline(
    folder: Path, source: str, variant: str | None, dtype: torch.dtype, hollow: bool
) -> Any:
    """The pipeline in a folder, its networks in a dtype and not yet frozen.

    Args:
        folder: Where it is.
        source: What the user calls it.
        variant: Which files of weights, such as fp16; None for those without a name.
        dtype: Of the networks.
        hollow: Whether networks are made on 'meta' from their configs, without weights.

    Raises:
        ModelError: For missing, damaged or foreign parts.
    """
    index = read_index(folder, source) if (folder / INDEX).is_file() else None
    expected = index.parts if index is not None else ()
    missing = [name for name in (INDEX, *expected) if not (folder / name).exists()]
    if index is None or missing:
        raise ModelError(
            f"prior {source!r} lacks {', '.join(missing)} in {folder}, expected a diffusers folder with "
            f"{', '.join((INDEX, *expected))}: save the whole pipeline with save_pretrained, or fetch it with "
            "`hf download <id> --local-dir FOLDER`."
        )
    try:
        with quiet():
            parts = {
                name: _part(folder, name, library, part, variant, dtype, hollow)
                for name, (library, part) in index.parts.items()
            }
            return assembled(index, parts, folder)
    except FAILURES as error:
        raise _unreadable(source, folder, error, variant, index) from error


def _part(
    folder: Path,
    name: str,
    library: str,
    part: Any,
    variant: str | None,
    dtype: torch.dtype,
    hollow: bool,
) -> Any:
    local = {"subfolder": name, "local_files_only": True}
    if not issubclass(part, nn.Module):
        return part.from_pretrained(folder, **local)
    dtype = safe_dtype(part, dtype)
    if hollow and library == "diffusers":
        config = part.load_config(folder, **local)
        with torch.device("meta"):
            return part.from_config(config).to(dtype)
    if hollow:
        config = part.config_class.from_pretrained(folder, **local)
        with torch.device("meta"):
            return part(config).to(dtype)
    weights = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    key = "torch_dtype" if library == "diffusers" else "dtype"
    if dtype == torch.bfloat16 and not _all_bfloat16(folder / name, STEMS[library], variant):
        dtype = torch.float32  # rounding would take away what tells one prior from another
    return whole_part(part, folder, name, **weights, **{key: dtype})


def _all_bfloat16(folder: Path, stem: str, variant: str | None) -> bool:
    """Whether the files of a part's weights hold bfloat16 alone: read as such, they need half the memory of float32."""
    kept = set()
    for file in folder.glob(f"{stem}*.safetensors"):
        end = VARIANT.fullmatch(file.name.removeprefix(stem))
        if end and end[1] == variant:
            with safe_open(file, "pt") as opened:
                names = opened.keys()
                kept |= {opened.get_slice(name).get_dtype() for name in names}
    return kept == {"BF16"}


def assembled(index: Index, parts: Mapping[str, Any], folder: Path) -> Any:
    """A pipeline of its parts. folder: where the scheduler's config is."""
    takes = signature(index.kind).parameters
    off = {name: False for name in OFF if name in takes}
    without = {name: None for name in WITHOUT if name in takes}
    own = type(parts["scheduler"]).__name__
    if index.kind.__name__ != STABLE_DIFFUSION or own in DISTILLED:
        return index.kind(**{**parts, **index.arguments, **off, **without})
    # Sampled by DDIM as the method was published, with the config that is in the folder: the
    # constructor warns of some configs and changes them, so it is shown another.
    plain = DDIMScheduler(steps_offset=1, clip_sample=False)
    pipe = index.kind(**{**parts, **index.arguments, **off, **without, "scheduler": plain})
    config = DDIMScheduler.load_config(folder, subfolder="scheduler")
    pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
    return pipe


def _unreadable(
    source: str,
    folder: Path,
    error: Exception,
    variant: str | None = None,
    index: Index | None = None,
) -> ModelError:
    wanted = f" of variant {variant!r}" if variant else ""
    advice = _advice(source, folder, variant, index.weights if index is not None else {})
    return ModelError(
        f"prior {source!r} cannot be read from {folder} ({brief(error)}), expected a complete diffusers folder with "
        f"safetensors weights{wanted}: {advice}."
    )


def _advice(source: str, folder: Path, variant: str | None, weights: Mapping[str, str]) -> str:
    """What to do where a folder cannot be read: another variant, if all parts have that one and not this."""
    each: Sequence[set[str | None]] = [
        variants(folder / name, stem) for name, stem in weights.items()
    ]
    if not each or all(variant in names for names in each):
        return "fetch or save it again"
    whole = set.intersection(*each)
    ways = ["leave the variant out"] if None in whole else []
    ways += [f"pass variant={name!r}" for name in sorted(name for name in whole if name)]
    if not ways and not Path(source).expanduser().is_dir():
        ways = [f"look up on https://huggingface.co/{source}/tree/main which variants it has"]
    return " or ".join(ways) or "fetch or save it again"


def variants(folder: Path, stem: str) -> set[str | None]:
    """The variants of a part's weights that are in its folder; None is the one without a name."""
    ends = (
        VARIANT.fullmatch(file.name.removeprefix(stem))
        for file in folder.glob(f"{stem}*.safetensors")
    )
    return {end[1] for end in ends if end}
