"""Where tiny decoders come from, and whether they read a prior's latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from engine.errors import ModelError, brief
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quiet import quiet
from engine.priors.tiny_decoder import VARIANTS, decoder_with
from engine.priors.vae import TINY_DECODERS, Decoder, downscale, latent_channels

FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What diffusers and transformers raise for files that are missing or broken."""
TINY = "tiny"
"""Subfolder of a prior's folder for a tiny decoder of its own."""
AUTO = "auto"
CONFIG = "config.json"
FILES = (CONFIG, "diffusion_pytorch_model.safetensors")
VARIANT_FILES = tuple(f"{name}*.safetensors" for name in VARIANTS)
"""Files of decoders that have no config, in a folder or on the hub."""
PUBLISHED: Mapping[tuple[str, int, float | None], str] = {
    ("AutoencoderKL", 4, 0.18215): "madebyollin/taesd",
    ("AutoencoderKL", 4, 0.13025): "madebyollin/taesdxl",
    ("AutoencoderKL", 16, 1.5305): "madebyollin/taesd3",
    ("AutoencoderKL", 16, 0.3611): "madebyollin/taef1",
    ("AutoencoderKLFlux2", 32, None): "madebyollin/taef2",
}
"""Hub ids of tiny decoders, by class, latent channels and scale of the VAE whose latents they read.

Priors share VAEs: Stable Diffusion 1, 2 and PixArt-alpha; SDXL, PixArt-Sigma and AuraFlow; FLUX.1, Z-Image, Chroma and
Lumina 2.
"""


def published_for(vae: Decoder) -> str | None:
    """The hub id of the tiny decoder that reads a VAE's latents, if one is known."""
    scale, channels = vae.config.get("scaling_factor"), vae.config.get("latent_channels")
    kind = type(vae).__name__
    return next(
        (
            name
            for (known, of, at), name in PUBLISHED.items()
            if (known, of) == (kind, channels)
            and (at is None or (scale is not None and abs(at - scale) < 1e-4))
        ),
        None,
    )


def published_as(source: str | Path) -> str | None:
    """The hub id of the tiny decoder that a source names: by that id, or by the name of a folder on its path.

    The hub's cache calls the folder of 'madebyollin/taesd' 'models--madebyollin--taesd'.
    """
    known = {name.rpartition("/")[2]: name for name in PUBLISHED.values()}
    parts = [part.rpartition("--")[2] for part in Path(source).parts]
    return next((known[part] for part in reversed(parts) if part in known), None)


def load_tiny(
    source: str | Path | None,
    vae: Decoder,
    prior: str,
    *,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
    own: Path | None = None,
) -> nn.Module | None:
    """The tiny decoder of a prior with this vae: see `load_prior`. None if there is none, or by the source 'none'.

    own: the prior's folder, whose subfolder `tiny` is taken where no source is named.

    Raises ModelError for one that cannot be read, or that was made for another family's latents.
    """
    if source is None and own is not None and (own / TINY).is_dir():
        source = own / TINY
    if source is None:
        return vae if isinstance(vae, TINY_DECODERS) else None
    if source == "none":
        return None
    if source == AUTO:
        source = _published(vae, prior)
    _check_family(source, vae, prior)
    place = _locate(source, local_files_only)
    try:
        with quiet():
            tiny = _read(place, source, dtype)
    except FAILURES as error:
        raise ModelError(
            f"tiny decoder {str(source)!r} cannot be read from {place} ({brief(error)}), expected an AutoencoderTiny "
            f"with {' and '.join(FILES)}: fetch or save it again."
        ) from error
    _check_fit(source, tiny, vae, prior)
    return tiny


def check_tiny(tiny: nn.Module, vae: Decoder, prior: str) -> None:
    """Raise ModelError for a module that is no tiny decoder, or not one of a prior with this vae."""
    if not isinstance(tiny, TINY_DECODERS):
        raise ModelError(
            f"the tiny decoder for {prior!r} is a {type(tiny).__name__}, expected an AutoencoderTiny: load one, or "
            "give its folder or hub id."
        )
    source = tiny.config.get("_name_or_path") or type(tiny).__name__
    _check_family(source, vae, prior)
    _check_fit(source, tiny, vae, prior)


def _read(place: Path, source: str | Path, dtype: torch.dtype) -> Any:
    """An AutoencoderTiny from its folder, or a TinyDecoder from a file of weights."""
    if place.is_dir():
        return whole_part(AutoencoderTiny, place, torch_dtype=dtype, use_safetensors=True)
    with place.open("rb") as file:
        pickled = file.read(2).startswith((b"PK", b"\x80"))  # as torch.save begins
    reads = _read_pickle if pickled else load_file
    found = decoder_with(reads(place))
    if found is None:
        raise ModelError(
            f"the weights of tiny decoder {str(source)!r} in {place} are none of {', '.join(VARIANTS)}, expected one "
            "of these, or a folder with an AutoencoderTiny: fetch it again, or take the folder of its diffusers copy."
        )
    return found.to(dtype)


def _read_pickle(file: Path) -> Any:
    with file.open("rb") as opened:  # by a path torch goes by its ending
        return torch.load(opened, map_location="cpu", weights_only=True)


def whole_part(model: type[Any], folder: Path, name: str | None = None, **options: object) -> Any:
    """A network of a diffusers folder, whole: what a file lacks, libraries make up and only warn."""
    place = {} if name is None else {"subfolder": name}
    part, loading = model.from_pretrained(folder, output_loading_info=True, **place, **options)
    if loading["missing_keys"]:
        lacks = sorted(loading["missing_keys"])
        raise ModelError(
            f"the weights of {name or model.__name__} in {folder} lack {len(lacks)} tensors (first: {lacks[0]}), "
            "expected all of its config: the file is of another model or was cut. Fetch or save it again."
        )
    return part


def _locate(source: str | Path, local_files_only: bool) -> Path:
    """The folder of an AutoencoderTiny, or the file of a decoder that diffusers has no class for."""
    place = Path(source).expanduser()
    if place.is_file():
        return place
    if not place.is_dir():
        if not (isinstance(source, str) and HUB_ID.fullmatch(source) and "/" in source):
            raise ModelError(
                f"unknown tiny decoder {str(source)!r}, expected a local folder of an AutoencoderTiny, its hub id such "
                f"as 'madebyollin/taesd', a file of {' or '.join(VARIANTS)}, '{AUTO}' or 'none': check the spelling, "
                "or that the folder exists."
            )
        place = fetch(source, [*FILES, *VARIANT_FILES], None, local_files_only)
    files = sorted(file for pattern in VARIANT_FILES for file in place.glob(pattern))
    if files and not (place / CONFIG).is_file():
        return files[0]
    missing = [name for name in FILES if not (place / name).is_file()]
    if missing:
        raise ModelError(
            f"tiny decoder {str(source)!r} lacks {', '.join(missing)} in {place}, expected {' and '.join(FILES)}: "
            "save it with save_pretrained, or give the folder that holds them."
        )
    return place


def _published(vae: Decoder, prior: str) -> str:
    found = published_for(vae)
    if found is None:
        raise ModelError(
            f"tiny decoder is '{AUTO}' and none is known for the {type(vae).__name__} of prior {prior!r}, expected one "
            f"of the VAEs that {', '.join(PUBLISHED.values())} read: name a folder or file (SANA's and Qwen-Image's "
            "are files, see docs/priors.md), or 'none'."
        )
    return found


def _check_family(source: str | Path, vae: Decoder, prior: str) -> None:
    """Raise ModelError where a published tiny decoder is named and reads the latents of another family.

    Its name is all that tells: the config of TAESD is that of TAESDXL.
    """
    found, named = published_for(vae), published_as(source)
    kinds = {kind for (kind, _, _), name in PUBLISHED.items() if name == named}
    if named is not None and (named != found if found else type(vae).__name__ not in kinds):
        raise ModelError(
            f"tiny decoder {str(source)!r} reads the latents of another VAE than that of prior {prior!r}, expected "
            f"{found or 'one of its family'!r}: its colours would be wrong. Take that one, see docs/priors.md."
        )


def _check_fit(source: str | Path, tiny: Any, vae: Decoder, prior: str) -> None:
    """Raise ModelError where a tiny decoder reads latents of other channels or of another VAE, or has another size."""
    read, made = latent_channels(tiny), latent_channels(vae)
    fits = published_for(vae)
    take = f"Take {fits!r}." if fits else "Take the one of this prior's family, or 'none'."
    if read != made:
        raise ModelError(
            f"tiny decoder {str(source)!r} reads latents of {read} channels and prior {prior!r} has {made}, expected "
            f"as many: it was made for another family of priors. {take}"
        )
    if downscale(tiny) != downscale(vae):
        raise ModelError(
            f"tiny decoder {str(source)!r} makes {downscale(tiny)} px of a latent's side and the vae of prior "
            f"{prior!r} {downscale(vae)}, expected as many: its images would have another size. {take}"
        )
    reads = tiny.config.get("reads", type(vae).__name__)
    if reads != type(vae).__name__:
        raise ModelError(
            f"tiny decoder {str(source)!r} reads latents of {reads} and the vae of prior {prior!r} is an "
            f"{type(vae).__name__}, expected that one: its colours would be wrong. {take}"
        )
