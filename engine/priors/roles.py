"""Which part of a pipeline is what, and which pipelines can be a prior."""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from engine.errors import ModelError
from engine.priors.interface import Component, TextEncoder

DENOISERS = ("unet", "transformer")
DECODER = "vae"
TINY = "tiny"
TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
NEEDED = ("encode_prompt", "prepare_latents")
"""Methods at which a pipeline is interrupted, besides its scheduler's and its VAE's."""
OFFLOADING = ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker")
"""Hooks of diffusers that move weights."""
OPTIONAL = ("text_encoder_3", "tokenizer_3")
"""Parts that a pipeline may lack besides those that its class lists: Stable Diffusion 3 without T5."""
PIXELS = ", not one that denoises pixels"
CHANGES, FOLLOWS = "changes an image that it is given", "follows an image that it is given"
OTHER_TASKS = (
    (re.compile("num_frames|frames|.*video.*"), "makes videos"),
    (re.compile(".*audio.*|.*waveform.*"), "generates audio"),
    (re.compile("control_image|reference_image|controlnet|adapter"), FOLLOWS),
    (re.compile("mask_image"), "fills a part of an image that it is given"),
    (re.compile("strength|image|image_guidance_scale"), CHANGES),
)
"""Arguments of pipelines that are no text-to-image pipelines, or parts of these, and what they do."""
IMAGE_IF_GIVEN = (
    *("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinKVPipeline", "FluxKontextPipeline"),
    *("GlmImagePipeline", "QwenImage21Pipeline", "ZImageOmniPipeline", "BriaFibo2Pipeline"),
    *("DreamLitePipeline", "DreamLiteMobilePipeline"),
)
"""Classes of pipelines that draw from text alone where they are given no `image`."""
FAMILIES: Mapping[str, str] = {
    "clip_text_model": "clip",
    "t5": "t5",
    "umt5": "t5",
    "gemma2": "gemma",
    "qwen3": "qwen",
    "qwen2_5_vl": "qwen",
}
"""Keys of text encoders, by the model type in their configs."""
CLIPS = ("clip_l", "clip_g")
"""Keys of CLIP's text encoders where there are several encoders, in their order."""
ENCODER_KEYS = frozenset((*FAMILIES.values(), *CLIPS))


@cache
def arguments_of(kind: Any) -> frozenset[str]:
    """The names of what the call of a class of pipelines takes."""
    return frozenset(inspect.signature(kind.__call__).parameters)


def check_pipeline(pipe: Any) -> None:
    """Raise ModelError, saying what is missing, for a pipeline that cannot be a prior."""
    kind = type(pipe).__name__
    takes = arguments_of(pipe.__class__) | inspect.signature(type(pipe).__init__).parameters.keys()
    if any(of.__name__ in IMAGE_IF_GIVEN for of in type(pipe).__mro__):
        takes -= {"image", "image_guidance_scale"}
    for pattern, does in OTHER_TASKS:
        if any(map(pattern.fullmatch, takes)):
            raise ModelError(
                f"the prior is a {kind}, which {does}, expected a pipeline from text to image: load the same model "
                "with AutoPipelineForText2Image, or choose another."
            )
    lacks = [name for name in NEEDED if not hasattr(type(pipe), name)]
    lacks += [name for name in ("scheduler", DECODER) if getattr(pipe, name, None) is None]
    if not any(getattr(pipe, name, None) is not None for name in DENOISERS):
        lacks.append(" or ".join(DENOISERS))
    if lacks:
        raise ModelError(
            f"the prior is a {kind} without {', '.join(lacks)}, expected a latent text-to-image pipeline of "
            f"diffusers, which has {', '.join((*NEEDED, 'scheduler', DECODER))} and one of {', '.join(DENOISERS)}: "
            f"choose such a model{PIXELS if DECODER in lacks else ''}."
        )
    lacks = _text_parts_missing(pipe)
    if lacks:
        raise ModelError(
            f"the prior is a {kind} without {', '.join(lacks)}, expected the text encoders that this class needs, each "
            "with its tokenizer: prompts are encoded even where a call has prompt_embeds. Load the pipeline with them."
        )
    hooked = [
        name for name, module in networks(pipe).items() if any(map(_is_offloaded, module.modules()))
    ]
    if hooked:
        raise ModelError(
            f"parts of the prior are offloaded by hooks ({', '.join(hooked)}), expected networks that stay where they "
            "are: leave out enable_model_cpu_offload, group offloading and the like, which move weights away before a "
            "gradient comes back to them. `ddis plan` shows what saves memory instead."
        )


def _text_parts_missing(pipe: Any) -> list[str]:
    """Names of the text encoders that a pipeline lacks and needs, and of tokenizers that its encoders lack."""
    slots = inspect.signature(type(pipe).__init__).parameters
    optional = {*getattr(type(pipe), "_optional_components", ()), *OPTIONAL}
    here = text_encoder_names(pipe)
    encoders = [name for name in slots if name.startswith(TEXT_ENCODER) and name not in here]
    needed = [name for name in encoders if name not in optional or not here]
    tokenizers = [name.replace(TEXT_ENCODER, TOKENIZER) for name in here]
    return needed + [name for name in tokenizers if getattr(pipe, name, None) is None]


def check_unhooked(pipe: Any) -> None:
    """Raise ModelError for networks with hooks of diffusers, which may keep what an earlier call computed."""
    for name, network in networks(pipe).items():
        registries = (getattr(module, "_diffusers_hook", None) for module in network.modules())
        found = sorted({hook for registry in registries if registry for hook in registry.hooks})
        if found:
            cached = getattr(network, "is_cache_enabled", False)
            undo = (
                f"call `pipe.{name}.disable_cache()`"
                if cached
                else "load the pipeline again without them"
            )
            raise ModelError(
                f"the prior's {name} has hooks ({', '.join(found)}), expected none: hooks reuse what earlier calls "
                f"computed, or cast weights. To remove them, {undo}, or keep them and use GuidedScheduler."
            )


def _is_offloaded(module: nn.Module) -> bool:
    """Whether hooks of accelerate or of diffusers move a module's weights."""
    registry = getattr(module, "_diffusers_hook", None)
    return hasattr(module, "_hf_hook") or (
        registry is not None and any(map(registry.get_hook, OFFLOADING))
    )


def networks(pipe: Any) -> dict[str, Any]:
    """The networks of a pipeline that a prior uses, by name: denoiser, VAE, text encoders."""
    names = [denoiser_name(pipe), DECODER, *text_encoder_names(pipe)]
    return {name: getattr(pipe, name) for name in names}


def dtypes(pipe: Any, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """The dtype that each network shall have where `dtype` is wanted; None for what each has.

    A VAE that overflows in float16 is float32: SDXL casts it up and down again for each image.
    """
    chosen = {name: dtype or network.dtype for name, network in networks(pipe).items()}
    overflows = hasattr(pipe, "upcast_vae") and pipe.vae.config.force_upcast
    if overflows and chosen[DECODER] == torch.float16:
        chosen[DECODER] = torch.float32
    return chosen


def denoiser_name(pipe: Any) -> str:
    return next(name for name in DENOISERS if getattr(pipe, name, None) is not None)


def text_encoder_names(pipe: Any) -> list[str]:
    return sorted(
        name
        for name, part in pipe.__dict__.items()
        if name.startswith(TEXT_ENCODER) and isinstance(part, nn.Module)
    )


def components_of(pipe: Any, tiny: nn.Module | None) -> tuple[Component, ...]:
    """The networks of a pipeline and its tiny decoder, those that are one named once."""
    denoiser, decoder, *encoders = networks(pipe).items()
    found = [
        Component(denoiser[0], "denoiser", denoiser[1]),
        *(Component(name, "text encoder", module) for name, module in encoders),
        Component(decoder[0], "decoder", decoder[1]),
    ]
    if tiny is not None and tiny is not decoder[1]:
        found.append(Component(TINY, "tiny decoder", tiny))
    return tuple(found)


def text_encoders_of(pipe: Any) -> tuple[TextEncoder, ...]:
    """The text encoders with their tokenizers. Several of CLIP are clip_l and clip_g, in this order."""
    found = []
    names = text_encoder_names(pipe)
    clips = iter(CLIPS)
    for name in names:
        module = getattr(pipe, name)
        family = FAMILIES.get(module.config.model_type, module.config.model_type)
        key = next(clips, family) if family == "clip" and len(names) > 1 else family
        tokenizer_name = name.replace(TEXT_ENCODER, TOKENIZER)
        scale = getattr(module.get_input_embeddings(), "scalar_embed_scale", 1.0)
        found.append(
            TextEncoder(
                key, name, tokenizer_name, getattr(pipe, tokenizer_name), module, float(scale)
            )
        )
    return tuple(found)
