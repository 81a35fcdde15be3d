"""Published configs of denoisers and autoencoders, as diffusers takes them, without values equal to defaults."""

from engine.priors.architectures.part import Config

UNET_1: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
UNET_2: Config = {
    **UNET_1,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
UNET_2_V: Config = {**UNET_2, "sample_size": 96, "upcast_attention": True}
UNET_XL: Config = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_3: Config = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SD_3_5_MEDIUM: Config = {
    **SD_3,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}
SD_3_5_LARGE: Config = {
    **SD_3,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
PIXART_ALPHA: Config = {
    "sample_size": 128,
    "caption_channels": 4096,
    "use_additional_conditions": True,
}
PIXART_SIGMA: Config = {**PIXART_ALPHA, "use_additional_conditions": False}
SANA: Config = {"caption_channels": 2304}
FLUX_DEV: Config = {"guidance_embeds": True}
FLUX_SCHNELL: Config = {"guidance_embeds": False}
KLEIN_4B: Config = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
KLEIN_9B: Config = {
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}
LUMINA_2: Config = {"cap_feat_dim": 2304}
AURAFLOW: Config = {"pos_embed_max_size": 96 * 96}

KL: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
KL_768: Config = {**KL, "sample_size": 768}
KL_XL: Config = {**KL, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
KL_16: Config = {
    **KL,
    "sample_size": 1024,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
KL_SD_3: Config = {**KL_16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
KL_FLUX: Config = {**KL_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_AE: Config = {
    "encoder_block_types": _BLOCKS,
    "decoder_block_types": _BLOCKS,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
TAESD: Config = {
    "encoder_block_out_channels": (64, 64, 64, 64),
    "decoder_block_out_channels": (64, 64, 64, 64),
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
TAESD_16: Config = {**TAESD, "latent_channels": 16}
