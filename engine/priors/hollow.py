"""Networks without weights, on the device 'meta', whose shapes a plan counts."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PADDED = "sdpa_padded"


def padded_mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """SDPA's mask of texts of which some are padded: made without a look at values, as there are none."""
    if attention_mask is not None:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, attention_mask=attention_mask, **options)


def callable_on_meta(encoder: nn.Module) -> None:
    """Let a text encoder of transformers be called on 'meta', as it is with prompts of several lengths."""
    if encoder.config._attn_implementation == "sdpa":  # type: ignore[union-attr]
        AttentionInterface.register(PADDED, sdpa_attention_forward)
        AttentionMaskInterface.register(PADDED, padded_mask)
        encoder.set_attn_implementation(PADDED)  # type: ignore[operator]
