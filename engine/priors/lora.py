"""Adapters (LoRA) of a prior: read by diffusers, in all the forms that it knows, and merged into the weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE, LoraBaseMixin
from safetensors import SafetensorError

from engine.errors import MissingExtraError, ModelError, brief
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quiet import quiet
from engine.networks.sealed import metadata_of
from engine.priors.marks import marked

FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)
"""What diffusers and peft raise for files that are missing, broken, or another network's."""
SUFFIXES = {".safetensors", ".pt", ".bin"}
"""Of files: what ends so and is not there is no hub id."""
NAME = "merged"
FORMAT = "ddis-lora/1"
"""Of adapters that `learn_lora` writes, which say what they were learned on."""


def check_peft() -> None:
    """Raise MissingExtraError where peft is not installed: diffusers asks for it late, and says less."""
    if find_spec("peft") is None:
        raise MissingExtraError(
            "an adapter needs peft, which is not installed, expected the extra 'lora': run pip install 'ddis[lora]'."
        )


def merge_lora(pipe: Any, source: str | Path, prior: str, *, local_files_only: bool = False) -> str:
    """Add an adapter to the weights of a pipeline's networks, which afterwards cost what they did before.

    Args:
        pipe: A pipeline in main memory, whose networks nobody else uses.
        source: A .safetensors file, a folder, or a hub id.
        prior: What messages call the pipeline.
        local_files_only: Whether to leave the hub alone.

    Returns:
        The objective that `learn_lora` learned it with ('guidance' or 'class'); "" for others' adapters.

    Raises:
        MissingExtraError: peft is not installed.
        ModelError: The adapter cannot be read, is of another family or size, or was learned by `learn_lora` on
            other weights.
    """
    check_peft()
    if not isinstance(pipe, LoraBaseMixin):
        raise ModelError(
            f"the prior {prior!r} is a {type(pipe).__name__}, expected a pipeline that diffusers has adapters for: "
            "leave the adapter out, or choose another prior."
        )
    path = _located(source, local_files_only)
    objective = _objective(path, pipe, prior)
    where = (path.parent, path.name) if path.is_file() else (path, None)
    try:
        with quiet():
            pipe.load_lora_weights(
                str(where[0]),
                weight_name=where[1],
                adapter_name=NAME,
                use_safetensors=True,
                local_files_only=True,
            )
            adapted = {name for name, parts in pipe.get_list_adapters().items() if parts}
            if not adapted:
                raise ValueError("none of its weights has a place in the pipeline")
            pipe.fuse_lora(components=sorted(adapted), adapter_names=[NAME], safe_fusing=True)
            pipe.unload_lora_weights()
    except FAILURES as error:
        raise ModelError(
            f"the adapter {str(source)!r} does not go into prior {prior!r} ({brief(error)}), expected a LoRA of this "
            "model in a form that diffusers reads: check the path, and which model it was made for."
        ) from error
    return objective


def _located(source: str | Path, local_files_only: bool) -> Path:
    """The file or folder of an adapter; from the hub the one with diffusers' name for it, else all that there are."""
    path, name = Path(source).expanduser(), str(source)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(name) or "/" not in name or path.suffix in SUFFIXES:
        raise ModelError(
            f"there is no adapter {name!r}, expected a .safetensors file, a folder or a hub id: check the path."
        )
    found = fetch(name, [LORA_WEIGHT_NAME_SAFE], local_files_only=local_files_only)
    if (found / LORA_WEIGHT_NAME_SAFE).is_file():
        return found
    return fetch(name, ["*.safetensors"], local_files_only=local_files_only)


def _objective(path: Path, pipe: Any, prior: str) -> str:
    """The objective of an adapter of `learn_lora`, "" of others'. Raises ModelError for one of another prior."""
    files = [path]
    if path.is_dir():  # diffusers looks for its own name first
        usual = path / LORA_WEIGHT_NAME_SAFE
        files = [usual] if usual.is_file() else sorted(path.glob("*.safetensors"))
    for file in files:
        try:
            metadata = metadata_of(file)
            if metadata.get("format") != FORMAT:
                continue
            learned_on = metadata["run"]["models"]["prior"]
            mark, name = learned_on["fingerprint"], learned_on["name"]
            objective = metadata["run"]["learning"]["objective"]
        except FAILURES:  # diffusers reads more forms, and says what is wrong
            continue
        if mark != (here := marked(pipe)):
            raise ModelError(
                f"the adapter {str(file)!r} was learned on prior {mark} ({name!r}), expected {here} ({prior!r}): load "
                "the prior that it was learned on, or learn an adapter for this one."
            )
        return str(objective)
    return ""
