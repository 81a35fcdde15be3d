"""Tiny random-weight pipelines, one for each family of priors, built in code."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderTiny,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from engine.priors import Prior, load_prior

CLIP_VOCABULARY = 520
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


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


def byte_tokenizer(length: int = 32) -> PreTrainedTokenizerFast:
    """One token a byte, with an end."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=length
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with a template for chats and without an end, as Qwen's."""
    tokenizer = byte_tokenizer(256)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.chat_template = CHAT
    return tokenizer


def t5(width: int = 32) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=300,
            d_model=width,
            d_kv=8,
            d_ff=37,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=300,
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
        )
    )


def qwen3(kind: type = Qwen3Model, layers: int = 2) -> Any:
    return kind(
        Qwen3Config(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=300,
            max_position_embeddings=512,
        )
    )


def qwen2_5_vl() -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "rope_parameters": {
            "mrope_section": [1, 1, 2],
            "rope_type": "default",
            "type": "default",
            "rope_theta": 1e6,
        },
    }
    sight = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text,
            vision_config=sight,
            hidden_size=16,
            vocab_size=300,
            vision_end_token_id=1,
            vision_start_token_id=1,
            vision_token_id=1,
        )
    )


def gemma2() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            head_dim=16,
            hidden_size=8,
            intermediate_size=64,
            num_attention_heads=2,
            num_hidden_layers=1,
            num_key_value_heads=2,
            vocab_size=300,
            attn_implementation="eager",
        )
    )


def autoencoder(blocks: int = 2, **config: Any) -> AutoencoderKL:
    """2 px a latent, and twice as many for each block more."""
    return AutoencoderKL(
        block_out_channels=(16,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        layers_per_block=1,
        **config,
    )


def fitting_tiny(pipe: Any) -> AutoencoderTiny:
    """A tiny decoder of as many px a latent as the pipeline's VAE."""
    levels = len(pipe.vae.config.block_out_channels)
    widths = {f"{part}_block_out_channels": (4,) * levels for part in ("encoder", "decoder")}
    blocks = {f"num_{part}_blocks": (1,) * levels for part in ("encoder", "decoder")}
    return AutoencoderTiny(**widths, **blocks)


def shifted_autoencoder(blocks: int = 2) -> AutoencoderKL:
    """FLUX.1's kind."""
    return autoencoder(
        blocks,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
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


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NOISE = {**BETAS, "steps_offset": 1}


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
        text_encoder_3=t5(64),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def pixart(kind: type = PixArtSigmaPipeline) -> Any:
    """Its network predicts noise and a variance. DDIM, whose first-order steps can be compared."""
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )
    return kind(
        transformer=transformer,
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
    )


def pixart_alpha() -> PixArtAlphaPipeline:
    return pixart(PixArtAlphaPipeline)


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=gemma2(),
        tokenizer=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(distilled: bool = False) -> FluxPipeline:
    """dev, which takes its guidance as an input, or schnell, which needs none."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=not distilled,
    )
    return FluxPipeline(
        transformer=transformer,
        vae=shifted_autoencoder(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=not distilled, shift=3.0),
    )


def flux_schnell() -> FluxPipeline:
    return flux(distilled=True)


def chroma() -> ChromaPipeline:
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return ChromaPipeline(
        transformer=transformer,
        vae=shifted_autoencoder(),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def klein() -> Flux2KleinPipeline:
    """Not distilled, so that it has CFG. Its VAE keeps the mean and variance of latents."""
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=256,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return Flux2KleinPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=qwen3(Qwen3ForCausalLM, layers=4),
        tokenizer=chat_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        is_distilled=False,
    )


def z_image() -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # left as memory was
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    return ZImagePipeline(
        transformer=transformer,
        vae=shifted_autoencoder(),
        text_encoder=qwen3(),
        tokenizer=chat_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def lumina2() -> Lumina2Pipeline:
    """Its pipeline takes any VAE for one of 8 px a latent."""
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=8,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        vae=shifted_autoencoder(blocks=4),
        text_encoder=gemma2(),
        tokenizer=byte_tokenizer(256),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def aura_flow() -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        transformer=transformer,
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=umt5(),
        tokenizer=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def qwen_image() -> QwenImagePipeline:
    """Its VAE is one of videos."""
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1, 0.2, 0.3, 0.4],
        latents_std=[1.0, 2.0, 3.0, 4.0],
    )
    return QwenImagePipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=qwen2_5_vl(),
        tokenizer=chat_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def latent_consistency() -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(
        unet=unet(cross_attention_dim=32, attention_head_dim=4, time_cond_proj_dim=32),
        vae=autoencoder(scaling_factor=0.18215),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@dataclass(frozen=True)
class Family:
    """A family of priors.

    Attributes:
        call: Arguments of its pipeline's call that the tiny one needs.
        architectures: Its names behind `arch:`.
        encoders: Keys of its text encoders.
        entries: Of a context, how many prompts' and negative ones'.
        cfg: What its call names the scale of classifier-free guidance; "" for none.
        less: How much less than the engine's scale that is.
        row_scale: What its text encoders multiply rows of their embeddings by.
        image_error: How far any family's images may be from its pipeline's: what VAEs make of latents that are
            1e-5 apart, on processors with AVX-512 and with AMX.
    """

    name: str
    build: Callable[[], Any]
    encoders: tuple[str, ...]
    entries: int
    call: dict[str, Any] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    cfg: str = "guidance_scale"
    less: float = 0.0
    row_scale: float = 1.0
    image_error: ClassVar[float] = 4e-6


SIZE = {"height": 16, "width": 16}
"""Of pipelines whose own does not depend on their networks'."""
LARGER = {"height": 32, "width": 32}
"""Of pipelines that take no smaller one."""
SHORT = {"max_sequence_length": 32}
TRUE_CFG = "true_cfg_scale"

FAMILIES = (
    Family(
        "sd",
        stable_diffusion,
        ("clip",),
        1,
        architectures=("sd-1.5", "sd-2.1-base", "sd-2.1"),
    ),
    Family("sdxl", sdxl, ("clip_l", "clip_g"), 2, architectures=("sdxl",)),
    Family(
        "sd3",
        sd3,
        ("clip_l", "clip_g", "t5"),
        2,
        SHORT,
        ("sd-3-medium", "sd-3.5-medium", "sd-3.5-large"),
    ),
    Family("pixart-alpha", pixart_alpha, ("t5",), 2, SHORT, ("pixart-alpha",)),
    Family("pixart-sigma", pixart, ("t5",), 2, SHORT, ("pixart-sigma",)),
    Family(
        "sana",
        sana,
        ("gemma",),
        2,
        {**LARGER, **SHORT, "complex_human_instruction": None},
        ("sana-1.6b",),
        row_scale=8**0.5,
    ),
    Family("flux-dev", flux, ("clip_l", "t5"), 2, {**SIZE, **SHORT}, ("flux.1-dev",), TRUE_CFG),
    Family(
        "flux-schnell",
        flux_schnell,
        ("clip_l", "t5"),
        2,
        {**SIZE, **SHORT},
        ("flux.1-schnell",),
        TRUE_CFG,
    ),
    Family("chroma", chroma, ("t5",), 2, {**SIZE, **SHORT}, ("chroma",)),
    Family(
        "flux2-klein",
        klein,
        ("qwen",),
        2,
        {**SIZE, **SHORT, "text_encoder_out_layers": (1, 2, 3)},
        ("flux.2-klein-4b", "flux.2-klein-9b"),
    ),
    Family("z-image", z_image, ("qwen",), 1, {**SIZE, **SHORT}, ("z-image",), less=1.0),
    Family(
        "lumina2",
        lumina2,
        ("gemma",),
        2,
        {**LARGER, "max_sequence_length": 256},
        ("lumina-2",),
        row_scale=8**0.5,
    ),
    Family("aura-flow", aura_flow, ("t5",), 2, {**SIZE, **SHORT}, ("auraflow",)),
    Family(
        "qwen-image",
        qwen_image,
        ("qwen",),
        2,
        {**SIZE, "max_sequence_length": 300},
        ("qwen-image",),
        TRUE_CFG,
    ),
)
"""A new family is a builder and an entry here."""
LCM = Family("lcm", latent_consistency, ("clip",), 0)
"""Its every step draws noise, and it has no CFG."""


class State:
    """All of a pipeline that a prior shares, as it is now."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.networks = {
            name: part
            for name, part in pipe.components.items()
            if isinstance(part, torch.nn.Module)
        }
        self.weights = {name: copy.deepcopy(n.state_dict()) for name, n in self.networks.items()}
        self.facts = self._facts()

    def _facts(self) -> dict[str, Any]:
        parts = {
            name: (n.training, n.dtype, [value.requires_grad for value in n.parameters()])
            for name, n in self.networks.items()
        }
        scheduler = str(self.pipe.scheduler.__dict__)
        return parts | {
            "attributes": dict(self.pipe.__dict__),
            "config": dict(self.pipe.config),
            "scheduler": scheduler,
        }

    def check(self) -> None:
        """Assert that all is as it was."""
        assert self._facts() == self.facts
        for name, network in self.networks.items():
            for key, value in network.state_dict().items():
                assert torch.equal(value, self.weights[name][key]), (name, key)


def built(family: Family) -> Any:
    """A family's tiny pipeline, in evaluation mode, the same each time."""
    torch.manual_seed(7)
    pipe = family.build()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    """All families by name."""
    return {family.name: family for family in (*FAMILIES, LCM)}


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    return request.param


@pytest.fixture
def pipe_of(families: dict[str, Family]) -> Callable[[str], Any]:
    """A tiny pipeline of the family with a name, that a test may change."""
    return lambda name: built(families[name])


@pytest.fixture
def new_pipe(family: Family) -> Any:
    """A tiny pipeline of the family that a test may change."""
    return built(family)


@pytest.fixture(scope="session")
def prior_of(families: dict[str, Family]) -> Callable[..., Prior]:
    """prior_of("sd3", quantise="none"): that family's prior, which tests share and leave as it is.

    All priors of a family are loaded from one pipeline.
    """
    pipe_of = cache(lambda name: built(families[name]))

    @cache
    def loaded(name: str, quantise: str = "none") -> Prior:
        return load_prior(pipe_of(name), call=families[name].call, quantise=quantise)

    return loaded


@pytest.fixture(scope="session")
def pipe(family: Family) -> Any:
    """The family's tiny pipeline, which tests share and leave as it is."""
    return built(family)


@pytest.fixture(scope="session")
def prior(family: Family, pipe: Any) -> Prior:
    """The family's prior."""
    return load_prior(pipe, call=family.call)
