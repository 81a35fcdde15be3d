"""Stable Diffusion by architecture alone: the public configs of its parts, so that planning needs no download.

`arch:sd-1.5`, `arch:sd-2.1-base` (512 px) and `arch:sd-2.1` (768 px, v-prediction) as their model cards publish them,
with TAESD as the tiny decoder. Weights are random, or none at all on the device 'meta'. The tokenizer has CLIP's
vocabulary size, context length and special ids, but knows bytes only: prompts have the shapes of CLIP's, not its words.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.errors import ModelError
from engine.networks.frozen import seeded
from engine.priors.vae import Decoder

PREFIX = "arch:"
CLIP_VOCABULARY = 49_408
CLIP_LENGTH = 77

UNET: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "norm_num_groups": 32,
}
UNET_1: Mapping[str, Any] = {**UNET, "attention_head_dim": 8, "cross_attention_dim": 768}
UNET_2: Mapping[str, Any] = {
    **UNET,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TAESD: Mapping[str, Any] = {
    "encoder_block_out_channels": (64, 64, 64, 64),
    "decoder_block_out_channels": (64, 64, 64, 64),
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
CLIP: Mapping[str, Any] = {
    "vocab_size": CLIP_VOCABULARY,
    "max_position_embeddings": CLIP_LENGTH,
    "bos_token_id": CLIP_VOCABULARY - 2,
    "eos_token_id": CLIP_VOCABULARY - 1,
}
CLIP_L: Mapping[str, Any] = {
    **CLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
OPEN_CLIP_H: Mapping[str, Any] = {
    **CLIP,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class PriorArchitecture(NamedTuple):
    """The configs of one prior's parts, as diffusers and transformers take them."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]


PRIOR_ARCHITECTURES = {
    "sd-1.5": PriorArchitecture(UNET_1, VAE, CLIP_L, SCHEDULER),
    "sd-2.1-base": PriorArchitecture(UNET_2, VAE, OPEN_CLIP_H, SCHEDULER),
    "sd-2.1": PriorArchitecture(
        {**UNET_2, "sample_size": 96, "upcast_attention": True},
        {**VAE, "sample_size": 768},
        OPEN_CLIP_H,
        {**SCHEDULER, "prediction_type": "v_prediction"},
    ),
}


class PriorParts(NamedTuple):
    """The parts of a prior as they were built or read, not yet frozen. tiny: its own small decoder, if it has one."""

    unet: UNet2DConditionModel
    vae: Decoder
    tiny: AutoencoderTiny | None
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Mapping[str, Any]


def build_prior(name: str, device: torch.device, dtype: torch.dtype) -> PriorParts:
    """The parts of `arch:<name>` on a device, with random weights, the same each time; without any on 'meta'.

    Raises ModelError.
    """
    if name not in PRIOR_ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {name!r} of a prior, expected one of "
            f"{', '.join(f'{PREFIX}{known}' for known in PRIOR_ARCHITECTURES)}: choose one of these, or name a folder "
            "or hub id to load weights."
        )
    found = PRIOR_ARCHITECTURES[name]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)  # no float32 copy of a large network, even for a moment
        with seeded(), torch.device(device):
            return PriorParts(
                unet=UNet2DConditionModel(**found.unet),
                vae=AutoencoderKL(**found.vae),
                tiny=AutoencoderTiny(**TAESD),
                text_encoder=CLIPTextModel(CLIPTextConfig(**found.text_encoder)),
                tokenizer=byte_tokenizer(),
                scheduler=found.scheduler,
            )
    finally:
        torch.set_default_dtype(before)


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without its merges: one token a byte, ids and length as in CLIP, the rest of them unused."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    unused = [f"<|unused-{number}|>" for number in range(CLIP_VOCABULARY - 2 - len(known))]
    words = [*known, *unused, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        model_max_length=CLIP_LENGTH,
    )
