"""Classifier-free guidance by a pipeline's own rule: which of its arguments is the scale, if it has any.

true_cfg_scale     FLUX.1, Qwen-Image; guidance_scale besides it, if there is one, is distilled guidance
guidance_scale     most; where a pipeline computes p + g (p - n) (Z-Image) it is the engine's scale less 1
neither            pipelines of distilled networks, whose own guidance is an argument of the call
"""

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from engine.errors import ConfigError
from engine.priors.roles import arguments_of, denoiser_name

TRUE_CFG, GUIDANCE = "true_cfg_scale", "guidance_scale"
NEGATIVE = "negative_prompt"
DISTILLED = ("guidance_embeds", "time_cond_proj_dim")
"""Entries of a network's config that say it takes the scale of a distilled guidance as an input."""

RESCALES = ("cfg_normalization", "guidance_rescale")
"""Arguments of calls that bring what guidance gives to the length of the prompt's branch."""
ALWAYS_RESCALES = ("QwenImagePipeline",)
"""Pipelines that do so without being asked."""


class CfgRule(NamedTuple):
    """How a pipeline takes the scale s of `n + s (p - n)`.

    argument: the name of its argument for it; "" for a pipeline without classifier-free guidance.
    less: how much less than s that is.
    """

    argument: str
    less: float = 0.0


def cfg_rule(pipe: Any) -> CfgRule:
    """The rule of a pipeline, read from its class and from its network's config."""
    takes = arguments_of(pipe.__class__)
    if TRUE_CFG in takes:
        return CfgRule(TRUE_CFG)
    if GUIDANCE not in takes:
        return CfgRule("")
    if hasattr(type(pipe), "do_classifier_free_guidance"):
        if not _guides(pipe, 2.0):
            return CfgRule("")
        return CfgRule(GUIDANCE, less=1.0 if _guides(pipe, 0.5) else 0.0)
    config = getattr(pipe, denoiser_name(pipe)).config
    return CfgRule("" if any(config.get(name) for name in DISTILLED) else GUIDANCE)


def _guides(pipe: Any, scale: float) -> bool:
    """Whether a pipeline would compute two branches at this value of its guidance_scale."""
    twin = SimpleNamespace(**{**pipe.__dict__, "_guidance_scale": scale, "config": pipe.config})
    return bool(type(pipe).do_classifier_free_guidance.fget(twin))


def cfg_is_affine(pipe: Any, call: Mapping[str, Any]) -> bool:
    """Whether a pipeline called so computes `n + s (p - n)` and nothing behind it: branches may then run apart."""
    if any(kind.__name__ in ALWAYS_RESCALES for kind in type(pipe).__mro__):
        return False
    parameters = inspect.signature(type(pipe).__call__).parameters
    defaults = {name: parameters[name].default for name in RESCALES if name in parameters}
    return not any({**defaults, **call}[name] for name in defaults)


def guidance_arguments(pipe: Any, cfg: float | None) -> dict[str, Any]:
    """What tells a pipeline the scale of classifier-free guidance; nothing for its own default.

    Raises ConfigError for a scale other than 1 where the pipeline has no such guidance.
    """
    rule = cfg_rule(pipe)
    if not rule.argument and cfg not in (None, 1):
        takes = arguments_of(pipe.__class__)
        own = (
            f"; the guidance that was distilled into it is the argument {GUIDANCE} of its call"
            if GUIDANCE in takes
            else ""
        )
        raise ConfigError(
            f"classifier-free guidance is asked of a {type(pipe).__name__}, which has none with this network, "
            f"expected a cfg of 1: set cfg to 1{own}."
        )
    return {rule.argument: float(cfg) - rule.less} if rule.argument and cfg is not None else {}


def negative_argument(pipe: Any, negative: str, images: int) -> dict[str, Any]:
    """What tells a pipeline the negative prompt of N images.

    An empty one is left out, so that each pipeline does what it does without one (SDXL: zeros). Those
    with `true_cfg_scale` have no CFG unless they are given some text.

    Raises ConfigError for a text where the pipeline takes none.
    """
    takes = arguments_of(pipe.__class__)
    if negative and NEGATIVE not in takes:
        raise ConfigError(
            f"the negative prompt is {negative!r} and a {type(pipe).__name__} takes none, expected '': leave it out."
        )
    if NEGATIVE not in takes or (not negative and TRUE_CFG not in takes):
        return {}
    return {NEGATIVE: [negative] * images}
