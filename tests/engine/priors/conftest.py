"""Tiny random-weight pipelines, one for each family of priors, built in code."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from engine.priors import Prior, load_prior

CLIP_VOCABULARY = 520
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's, one token a byte, 16 tokens long."""
    words = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        *(f"<|unused-{n}|>" for n in range(CLIP_VOCABULARY - 2 - 2 * len(LETTERS))),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=16
    )


def clip(kind: type = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=CLIP_VOCABULARY,
            bos_token_id=CLIP_VOCABULARY - 2,
            eos_token_id=CLIP_VOCABULARY - 1,
            pad_token_id=CLIP_VOCABULARY - 1,
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=16,
            projection_dim=32,
        )
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with an end."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=32
    )


def t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=300,
            d_model=64,
            d_kv=8,
            d_ff=37,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def autoencoder(**config: Any) -> AutoencoderKL:
    """2 px a latent."""
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        layers_per_block=1,
        **config,
    )


def unet(**config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        **config,
    )


NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def stable_diffusion() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=unet(cross_attention_dim=32, attention_head_dim=4),
        vae=autoencoder(scaling_factor=0.18215),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    denoiser = unet(
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
    )
    return StableDiffusionXLPipeline(
        unet=denoiser,
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=autoencoder(
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=clip(CLIPTextModelWithProjection),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        text_encoder_3=t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


@dataclass(frozen=True)
class Family:
    """A family of priors.

    call: arguments of its pipeline's call that the tiny one needs. encoders: keys of its text
    encoders. entries: of a context, how many prompts' and negative ones'.
    """

    name: str
    build: Callable[[], Any]
    encoders: tuple[str, ...]
    entries: int
    call: dict[str, Any] = field(default_factory=dict)


FAMILIES = (
    Family("sd", stable_diffusion, ("clip",), 1),
    Family("sdxl", sdxl, ("clip_l", "clip_g"), 2),
    Family("sd3", sd3, ("clip_l", "clip_g", "t5"), 2, {"max_sequence_length": 32}),
)
"""A new family is a builder and an entry here."""


def built(family: Family) -> Any:
    """A family's tiny pipeline, in evaluation mode, the same each time."""
    torch.manual_seed(7)
    pipe = family.build()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    return request.param


@pytest.fixture
def new_pipe(family: Family) -> Any:
    """A tiny pipeline of the family that a test may change."""
    return built(family)


@pytest.fixture(scope="session")
def pipe(family: Family) -> Any:
    """The family's tiny pipeline, which tests share and leave as it is."""
    return built(family)


@pytest.fixture(scope="session")
def prior(family: Family, pipe: Any) -> Prior:
    """The family's prior."""
    return load_prior(pipe, call=family.call)
