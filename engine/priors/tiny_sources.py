"""Where tiny decoders come from, and whether they read a prior's latents."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError

from engine.errors import ModelError, brief
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quiet import quiet
from engine.priors.vae import Decoder, downscale

FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What diffusers and transformers raise for files that are missing or broken."""
TINY = "tiny"
"""Subfolder of a prior's folder for a tiny decoder of its own."""
FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def load_tiny(
    source: str | Path | None,
    vae: Decoder,
    prior: str,
    *,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
    own: Path | None = None,
) -> AutoencoderTiny | None:
    """The tiny decoder of a prior with this vae: see `load_prior`. None if there is none, or by the source 'none'.

    own: the prior's folder, whose subfolder `tiny` is taken where no source is named.
    """
    if source is None and own is not None and (own / TINY).is_dir():
        source = own / TINY
    if source is None:
        return vae if isinstance(vae, AutoencoderTiny) else None
    if source == "none":
        return None
    folder = _locate(source, local_files_only)
    try:
        with quiet():
            tiny = whole_part(AutoencoderTiny, folder, torch_dtype=dtype, use_safetensors=True)
    except FAILURES as error:
        raise ModelError(
            f"tiny decoder {str(source)!r} cannot be read from {folder} ({brief(error)}), expected an AutoencoderTiny "
            f"with {' and '.join(FILES)}: fetch or save it again."
        ) from error
    _check_fit(source, tiny, vae, prior)
    return tiny


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
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not (isinstance(source, str) and HUB_ID.fullmatch(source) and "/" in source):
            raise ModelError(
                f"unknown tiny decoder {str(source)!r}, expected a local folder of an AutoencoderTiny, its hub id such "
                "as 'madebyollin/taesd', or 'none': check the spelling, or that the folder exists."
            )
        folder = fetch(source, FILES, None, local_files_only)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"tiny decoder {str(source)!r} lacks {', '.join(missing)} in {folder}, expected {' and '.join(FILES)}: "
            "save it with save_pretrained, or give the folder that holds them."
        )
    return folder


def _check_fit(source: str | Path, tiny: AutoencoderTiny, vae: Decoder, prior: str) -> None:
    """Raise ModelError where a tiny decoder reads latents of other channels, or makes images of another size."""
    read, made = tiny.config.latent_channels, vae.config.latent_channels
    if read != made:
        raise ModelError(
            f"tiny decoder {str(source)!r} reads latents of {read} channels and prior {prior!r} has {made}, expected "
            "as many: it was made for another family of priors. For Stable Diffusion 1.x and 2.x take "
            "'madebyollin/taesd'."
        )
    if downscale(tiny) != downscale(vae):
        raise ModelError(
            f"tiny decoder {str(source)!r} makes {downscale(tiny)} px of a latent's side and the vae of prior "
            f"{prior!r} {downscale(vae)}, expected as many: its images would have another size. Take the tiny decoder "
            "of this prior."
        )
