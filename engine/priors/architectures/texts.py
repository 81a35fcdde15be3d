"""Published configs of text encoders, as transformers takes them."""

from engine.priors.architectures.part import Config, Part
from engine.priors.architectures.tokenizers import CLIP_LENGTH, CLIP_VOCABULARY

_CLIP: Config = {
    "vocab_size": CLIP_VOCABULARY,
    "max_position_embeddings": CLIP_LENGTH,
    "bos_token_id": CLIP_VOCABULARY - 2,
    "eos_token_id": CLIP_VOCABULARY - 1,
}
_CLIP_L: Config = {
    **_CLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_CLIP_G: Config = {
    **_CLIP,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_CLIP_H: Config = {
    **_CLIP,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_T5: Config = {
    "vocab_size": 32_128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_QWEN_3: Config = {
    "vocab_size": 151_936,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_QWEN_3_4B: Config = {
    **_QWEN_3,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "tie_word_embeddings": True,
}
_QWEN_3_8B: Config = {**_QWEN_3, "hidden_size": 4096, "intermediate_size": 12_288}
_QWEN_2_5_VL_7B: Config = {
    "text_config": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}

CLIP_L = Part("CLIPTextModel", _CLIP_L)
CLIP_L_PROJECTED = Part("CLIPTextModelWithProjection", _CLIP_L)
CLIP_G_PROJECTED = Part("CLIPTextModelWithProjection", _CLIP_G)
CLIP_H = Part("CLIPTextModel", _CLIP_H)
T5_XXL = Part("T5EncoderModel", _T5)
PILE_T5_XL = Part("UMT5EncoderModel", {**_T5, "d_model": 2048, "d_ff": 5120, "num_heads": 32})
GEMMA_2_2B = Part("Gemma2Model")
QWEN_3_4B = Part("Qwen3ForCausalLM", _QWEN_3_4B)
QWEN_3_8B = Part("Qwen3ForCausalLM", _QWEN_3_8B)
QWEN_3_4B_BARE = Part("Qwen3Model", _QWEN_3_4B)
QWEN_2_5_VL_7B = Part("Qwen2_5_VLForConditionalGeneration", _QWEN_2_5_VL_7B)
