"""Reading a model from a single .safetensors file, as far as diffusers can: the file has weights alone.

Its pipeline, configs and tokenizers are those of the repository that diffusers takes the weights to be of.
"""

import re
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    infer_diffusers_model_type,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.errors import ModelError, brief
from engine.networks.hub import fetch
from engine.networks.quiet import quiet
from engine.priors.folder import INDEX, OFF, WITHOUT, assembled, patterns, read_index
from engine.priors.roles import CHANGES, FOLLOWS
from engine.priors.tiny_sources import FAILURES

SUFFIX = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
LORA = ("lora_", ".lora.", "_lora.", "lora_A", "lora_B", "hada_w1", "lokr_w1")
"""What stands in the names of a LoRA's tensors."""
OTHER_KINDS = (
    (
        re.compile("wan-.*|ltx.*|mochi.*|hunyuan-video|animatediff.*|cosmos.*[tv]2w.*"),
        "makes videos",
    ),
    (re.compile("(.*-)?controlnet.*|flux-depth"), FOLLOWS),
    (re.compile("flux-fill"), "fills a part of an image that it is given"),
    (re.compile("xl_refiner|upscale|instruct-pix2pix"), CHANGES),
    (re.compile("autoencoder.*"), "only decodes latents"),
)
"""Models that are no text-to-image models, by diffusers' names for them, and what they do."""

UNKNOWN, ORIGINAL = "v1", "model.diffusion_model."
"""What diffusers takes weights for whose names tell it nothing, and how those of such a model begin."""


def is_single_file(source: Any) -> bool:
    """Whether a source names a file of weights, there or not."""
    return (
        isinstance(source, str | Path)
        and Path(source).suffix in (SUFFIX, *PICKLED)
        and not Path(source).expanduser().is_dir()
    )


def read_single_file(path: Path, source: str, dtype: torch.dtype, local_files_only: bool) -> Any:
    """The pipeline of a file's weights, its networks in a dtype and not yet frozen.

    Raises ModelError for a file that is missing, broken, pickled, a LoRA, or of a model that is no prior.
    """
    checkpoint = _checkpoint(path, source)
    name = fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"]

    def configs(wanted: Sequence[str]) -> Path:
        try:
            return fetch(name, wanted, None, local_files_only)
        except ModelError as error:
            if not isinstance(error.__cause__, LocalEntryNotFoundError):
                raise  # a gated repository, for one, says itself what to do
            raise ModelError(
                f"prior {source!r} has weights alone and the configs of {name}, which diffusers takes them to be of, "
                "are not here, expected them in the hub's cache or the hub in reach: on a machine with network run "
                f"`hf download {name} --include '*.json' --include '*.txt' --include '*.model'`, with the same "
                "HF_HOME, or take the model as a folder in diffusers' format."
            ) from error

    folder = configs([INDEX])
    index = read_index(folder, source)
    if not hasattr(index.kind, "from_single_file"):
        raise ModelError(
            f"prior {source!r} has weights of a {index.kind.__name__}, which diffusers reads from no single file, "
            f"expected a folder in diffusers' format: fetch the model as one, such as {name}."
        )
    folder = configs(patterns(index, None, hollow=True))
    takes = signature(index.kind).parameters
    off = {key: False for key in OFF if key in takes} | {
        key: None for key in WITHOUT if key in takes
    }
    try:
        with quiet():
            pipe = index.kind.from_single_file(
                str(path), config=str(folder), local_files_only=True, torch_dtype=dtype, **off
            )
            return assembled(index, {key: getattr(pipe, key) for key in index.parts}, folder)
    except (*FAILURES, SingleFileComponentError) as error:
        raise ModelError(
            f"prior {source!r} cannot be read as a {index.kind.__name__} ({brief(error)}), expected all weights of one "
            f"in the file, named as diffusers knows them: fetch the model as a folder in diffusers' format, such as "
            f"{name}."
        ) from error


def _checkpoint(path: Path, source: str) -> dict[str, torch.Tensor]:
    if path.suffix in PICKLED:
        raise ModelError(
            f"prior {source!r} is a pickled file, which can run code when it is read, expected {SUFFIX}: convert it "
            "where you trust it, or fetch the model's .safetensors."
        )
    if not path.is_file():
        raise ModelError(
            f"prior {source!r} is no file, expected the path of a model's {SUFFIX}: check the spelling."
        )
    try:
        checkpoint = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"prior {source!r} cannot be read as safetensors ({brief(error)}), expected a model's weights: fetch the "
            "file again."
        ) from error
    if any(part in name for name in checkpoint for part in LORA):
        raise ModelError(
            f"prior {source!r} is a LoRA, not a whole model, expected one: name its base "
            "model as the prior, and this file as its `prior.lora`."
        )
    found = infer_diffusers_model_type(checkpoint)
    if found == UNKNOWN and not any(name.startswith(ORIGINAL) for name in checkpoint):
        raise ModelError(
            f"prior {source!r} holds weights that diffusers does not recognise (first: "
            f"{min(checkpoint, default='none')!r}), expected all of a text-to-image model: give the model's own file, "
            "or its folder in diffusers' format."
        )
    if "inpaint" in found:
        raise ModelError(
            f"prior {source!r} is an inpainting model, whose network reads 9 channels, expected one from text to "
            "image: choose the base model."
        )
    for pattern, does in OTHER_KINDS:
        if pattern.fullmatch(found):
            raise ModelError(
                f"prior {source!r} holds weights of a model ({found}) that {does}, expected one from text to image: "
                "choose the base model."
            )
    return checkpoint
