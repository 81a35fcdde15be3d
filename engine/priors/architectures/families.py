"""The architectures that `arch:` names, each with the public configs of its parts.

Where a published `scheduler_config.json` was not at hand, the shift of a flow is the one that other readers of the same
weights use: 6.0 for Lumina 2 and 1.73 for AuraFlow. A prior that is loaded has its own file.
"""

from engine.priors.architectures import networks, texts
from engine.priors.architectures.part import Config, Part, PriorArchitecture

_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
DDIM = Part(
    "DDIMScheduler",
    {**_DIFFUSION, "set_alpha_to_one": False, "clip_sample": False, "thresholding": False},
)
DDIM_V = Part("DDIMScheduler", {**DDIM.config, "prediction_type": "v_prediction"})
EULER = Part("EulerDiscreteScheduler", {**_DIFFUSION, "timestep_spacing": "leading"})
DPM = Part("DPMSolverMultistepScheduler")
FLOW_DPM = Part(
    "DPMSolverMultistepScheduler",
    {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
)
FLOW = Part("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
FLOW_UNSHIFTED = Part("FlowMatchEulerDiscreteScheduler", {"shift": 1.0})
FLOW_BY_SIZE = Part("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True})
FLOW_LUMINA = Part("FlowMatchEulerDiscreteScheduler", {"shift": 6.0})
FLOW_AURA = Part("FlowMatchEulerDiscreteScheduler", {"shift": 1.73})
FLOW_QWEN = Part(
    "FlowMatchEulerDiscreteScheduler",
    {
        "use_dynamic_shifting": True,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    },
)

KL_FLUX = Part("AutoencoderKL", networks.KL_FLUX)
KL_XL = Part("AutoencoderKL", networks.KL_XL)
TAESD = Part("AutoencoderTiny", networks.TAESD)
TAESD_16 = Part("AutoencoderTiny", networks.TAESD_16)
TAEF2, TAESANA, TAEW = Part("taef2"), Part("taesana"), Part("taew2_1")


def _stable_diffusion(unet: Config, vae: Config, text: Part, scheduler: Part) -> PriorArchitecture:
    return PriorArchitecture(
        pipeline="StableDiffusionPipeline",
        networks={
            "unet": Part("UNet2DConditionModel", unet),
            "vae": Part("AutoencoderKL", vae),
            "text_encoder": text,
        },
        tokenizers={"tokenizer": "clip"},
        scheduler=scheduler,
        tiny=TAESD,
        arguments={
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        },
    )


def _sd_3(transformer: Config) -> PriorArchitecture:
    return PriorArchitecture(
        pipeline="StableDiffusion3Pipeline",
        networks={
            "transformer": Part("SD3Transformer2DModel", transformer),
            "vae": Part("AutoencoderKL", networks.KL_SD_3),
            "text_encoder": texts.CLIP_L_PROJECTED,
            "text_encoder_2": texts.CLIP_G_PROJECTED,
            "text_encoder_3": texts.T5_XXL,
        },
        tokenizers={"tokenizer": "clip", "tokenizer_2": "clip", "tokenizer_3": "t5"},
        scheduler=FLOW,
        tiny=TAESD_16,
    )


def _flux(transformer: Config, scheduler: Part) -> PriorArchitecture:
    return PriorArchitecture(
        pipeline="FluxPipeline",
        networks={
            "transformer": Part("FluxTransformer2DModel", transformer),
            "vae": KL_FLUX,
            "text_encoder": texts.CLIP_L,
            "text_encoder_2": texts.T5_XXL,
        },
        tokenizers={"tokenizer": "clip", "tokenizer_2": "t5"},
        scheduler=scheduler,
        tiny=TAESD_16,
    )


def _one_text(
    pipeline: str,
    transformer: Part,
    vae: Part,
    text: Part,
    tokenizer: str,
    scheduler: Part,
    tiny: Part | None = None,
    **arguments: object,
) -> PriorArchitecture:
    """A transformer with one text encoder."""
    return PriorArchitecture(
        pipeline=pipeline,
        networks={"transformer": transformer, "vae": vae, "text_encoder": text},
        tokenizers={"tokenizer": tokenizer},
        scheduler=scheduler,
        tiny=tiny,
        arguments=arguments,
    )


def _klein(transformer: Config, text: Part) -> PriorArchitecture:
    return _one_text(
        "Flux2KleinPipeline",
        Part("Flux2Transformer2DModel", transformer),
        Part("AutoencoderKLFlux2"),
        text,
        "qwen",
        FLOW_BY_SIZE,
        TAEF2,
        is_distilled=True,
    )


PRIOR_ARCHITECTURES = {
    "sd-1.5": _stable_diffusion(networks.UNET_1, networks.KL, texts.CLIP_L, DDIM),
    "sd-2.1-base": _stable_diffusion(networks.UNET_2, networks.KL, texts.CLIP_H, DDIM),
    "sd-2.1": _stable_diffusion(networks.UNET_2_V, networks.KL_768, texts.CLIP_H, DDIM_V),
    "sdxl": PriorArchitecture(
        pipeline="StableDiffusionXLPipeline",
        networks={
            "unet": Part("UNet2DConditionModel", networks.UNET_XL),
            "vae": KL_XL,
            "text_encoder": texts.CLIP_L,
            "text_encoder_2": texts.CLIP_G_PROJECTED,
        },
        tokenizers={"tokenizer": "clip", "tokenizer_2": "clip"},
        scheduler=EULER,
        tiny=TAESD,
        arguments={"force_zeros_for_empty_prompt": True, "add_watermarker": False},
    ),
    "sd-3-medium": _sd_3(networks.SD_3),
    "sd-3.5-medium": _sd_3(networks.SD_3_5_MEDIUM),
    "sd-3.5-large": _sd_3(networks.SD_3_5_LARGE),
    "pixart-alpha": _one_text(
        "PixArtAlphaPipeline",
        Part("PixArtTransformer2DModel", networks.PIXART_ALPHA),
        Part("AutoencoderKL", networks.KL),
        texts.T5_XXL,
        "t5",
        DPM,
        TAESD,
    ),
    "pixart-sigma": _one_text(
        "PixArtSigmaPipeline",
        Part("PixArtTransformer2DModel", networks.PIXART_SIGMA),
        KL_XL,
        texts.T5_XXL,
        "t5",
        DPM,
        TAESD,
    ),
    "sana-1.6b": _one_text(
        "SanaPipeline",
        Part("SanaTransformer2DModel", networks.SANA),
        Part("AutoencoderDC", networks.DC_AE),
        texts.GEMMA_2_2B,
        "gemma",
        FLOW_DPM,
        TAESANA,
    ),
    "flux.1-dev": _flux(networks.FLUX_DEV, FLOW_BY_SIZE),
    "flux.1-schnell": _flux(networks.FLUX_SCHNELL, FLOW_UNSHIFTED),
    "chroma": _one_text(
        "ChromaPipeline",
        Part("ChromaTransformer2DModel"),
        KL_FLUX,
        texts.T5_XXL,
        "t5",
        FLOW_UNSHIFTED,
        TAESD_16,
    ),
    "flux.2-klein-4b": _klein(networks.KLEIN_4B, texts.QWEN_3_4B),
    "flux.2-klein-9b": _klein(networks.KLEIN_9B, texts.QWEN_3_8B),
    "z-image": _one_text(
        "ZImagePipeline",
        Part("ZImageTransformer2DModel"),
        KL_FLUX,
        texts.QWEN_3_4B_BARE,
        "qwen",
        FLOW,
        TAESD_16,
    ),
    "lumina-2": _one_text(
        "Lumina2Pipeline",
        Part("Lumina2Transformer2DModel", networks.LUMINA_2),
        KL_FLUX,
        texts.GEMMA_2_2B,
        "gemma",
        FLOW_LUMINA,
        TAESD_16,
    ),
    "auraflow": _one_text(
        "AuraFlowPipeline",
        Part("AuraFlowTransformer2DModel", networks.AURAFLOW),
        KL_XL,
        texts.PILE_T5_XL,
        "t5",
        FLOW_AURA,
        TAESD,
    ),
    "qwen-image": _one_text(
        "QwenImagePipeline",
        Part("QwenImageTransformer2DModel"),
        Part("AutoencoderKLQwenImage"),
        texts.QWEN_2_5_VL_7B,
        "qwen",
        FLOW_QWEN,
        TAEW,
    ),
}
"""By the name that follows `arch:`."""
