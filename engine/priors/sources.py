"""Loading a prior from any kind of source."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from engine.errors import ConfigError, ModelError
from engine.networks.frozen import default_device, freeze, named_dtype
from engine.networks.quiet import quiet
from engine.priors.prior import Prior
from engine.priors.schemes import SCHEMES, Loaded, Scheme, Wanted
from engine.priors.tiny_sources import load_tiny


def load_prior(
    source: str | Path | DiffusionPipeline = "embedded",
    *,
    variant: str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tiny: str | Path | None = None,
    local_files_only: bool = False,
    rests: bool = False,
    quantise: str = "none",
    lora: str | Path | None = None,
    call: dict[str, Any] | None = None,
) -> Prior:
    """Load and freeze a prior.

    Args:
        source: 'embedded', a diffusers folder, a model's .safetensors file, a hub id, 'arch:<name>'
            for random weights, or a text-to-image pipeline object, which is not modified.
        variant: Variant of the weight files, such as 'fp16'.
        revision: Branch, tag or commit on the hub.
        device: By default the GPU if there is one, or the device of a pipeline object. On 'meta',
            only configuration files are read: networks have shapes but no weights.
        dtype: Of the networks; 'auto' is the device's fastest (`DTYPES`). By default float32,
            or the dtype of a pipeline object. With float16, networks that would overflow use bfloat16
            (such as the text encoders Gemma 2 and Qwen), and single layers float32 (T5's `wo`).
        tiny: Tiny decoder for guidance: a folder or hub id of an AutoencoderTiny such as
            'madebyollin/taesd', a TAEF2, TAESANA or TAEW2.1 file, 'auto' for the one published for the
            prior's family, or 'none'. By default that of the architecture, that in the `tiny`
            subfolder of a local prior, or the prior's own VAE if it is tiny.
        local_files_only: Never access the hub.
        rests: Keep networks in main memory, for a plan to move to the device while they work.
        quantise: 'nf4' or 'int8' to store linear layers of the denoiser and the text encoders in 4.5 or
            8 bits per weight, which changes the images slightly.
        lora: An adapter to merge into the weights: a .safetensors file, a folder or a hub id, in any
            format that diffusers reads. Load adapters of a pipeline object with its own methods.
        call: Arguments for the pipeline's call that differ from its defaults, such as its height.

    Raises:
        ModelError: A source is unknown, unreachable, broken, of the wrong kind, or does not fit another.
        ConfigError: A setting is not valid for this source.
        MissingExtraError: bitsandbytes is not installed and NF4 was requested, or peft is not
            installed and an adapter was given.
    """
    scheme = _scheme_of(source)
    _check_settings(source, scheme, variant=variant, revision=revision, lora=lora)
    named = isinstance(source, str | Path)
    place_on = default_device(device) if named or device is not None else None
    wanted = Wanted(
        device=place_on,
        dtype=_dtype(dtype, place_on, source),
        variant=variant,
        revision=revision,
        tiny=tiny,
        local_files_only=local_files_only,
        rests=rests and named,
        quantise=quantise,
        lora=lora,
    )
    found = scheme.load(source, wanted)
    name = str(source) if named else type(source).__name__
    return Prior(
        found.pipe,
        name,
        tiny=_tiny(found, name, wanted),
        call=call,
        mark=found.mark,
        device=place_on,
        quantise=quantise,
        adapter=found.adapter,
    )


def _dtype(
    dtype: torch.dtype | str | None, device: torch.device | None, source: Any
) -> torch.dtype | None:
    if dtype is None:
        return torch.float32 if isinstance(source, str | Path) else None
    return named_dtype(dtype, device or source.device)


def _tiny(found: Loaded, name: str, wanted: Wanted) -> nn.Module | None:
    """The frozen tiny decoder for a pipeline, or None."""
    tiny = found.tiny
    dtype = found.pipe.vae.dtype
    if tiny is None or wanted.tiny is not None:
        tiny = load_tiny(
            wanted.tiny,
            found.pipe.vae,
            name,
            dtype=dtype,
            local_files_only=wanted.local_files_only,
            own=found.folder,
        )
    if tiny is None or tiny is found.pipe.vae:
        return tiny
    with quiet():
        return freeze(tiny).to(found.pipe.vae.device, dtype)


def _scheme_of(source: Any) -> Scheme:
    for scheme in SCHEMES:
        if scheme.claims(source):
            return scheme
    *words, last = (scheme.words for scheme in SCHEMES)
    shown = repr(str(source)) if isinstance(source, str | Path) else f"a {type(source).__name__}"
    raise ModelError(
        f"unknown prior {shown}, expected {', '.join(words)}, or {last}: check the spelling, or that the "
        "folder exists."
    )


def _check_settings(source: Any, scheme: Scheme, **settings: str | Path | None) -> None:
    """Raise ConfigError for a setting that the kind of source does not support."""
    for name, value in settings.items():
        if value is not None and name not in scheme.takes:
            shown = str(source) if isinstance(source, str | Path) else type(source).__name__
            takers = " and ".join(other.words for other in SCHEMES if name in other.takes)
            raise ConfigError(
                f"{name} is {value!r} with prior {shown!r}, expected none: only {takers} has one. Leave it out, "
                "or name such a prior."
            )
