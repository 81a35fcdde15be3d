"""What tells one prior from another: its weights, its noise levels, its vocabulary."""

from typing import Any

from engine.networks.frozen import fingerprint
from engine.priors.roles import networks, text_encoders_of
from engine.priors.steps import FLOW, levels_kind

SAMPLED = slice(None, None, 100)
"""Of a scheduler's noise levels, those that are compared."""


def marked(pipe: Any) -> str:
    """16 hex digits that are the same for every copy of a pipeline, in whatever dtype it is read."""
    scheduler, encoders = pipe.scheduler, text_encoders_of(pipe)
    kind = levels_kind(scheduler)
    noise = scheduler.sigmas if kind == FLOW else scheduler.alphas_cumprod
    return fingerprint(
        networks(pipe).values(),
        kind,
        [round(level, 4) for level in noise[SAMPLED].tolist()],
        pipe.vae.config.get("scaling_factor"),
        *(_activation(encoder.module.config) for encoder in encoders),
        *(sorted(encoder.tokenizer.get_vocab().items()) for encoder in encoders),
    )


def _activation(config: Any) -> str | None:
    """The activation of a text encoder, which its weights don't show."""
    return getattr(config, "hidden_act", None) or getattr(config, "feed_forward_proj", None)
