"""What must be known of arguments that pipelines' calls take, and a reading of their classes does not show."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from engine.errors import ConfigError
from engine.priors.cfg import cfg_rule
from engine.priors.roles import arguments_of

DEFAULTS: Mapping[str, tuple[object, str]] = {
    "use_resolution_binning": (
        False,
        "it denoises at another size and resizes images behind the VAE, which guidance does not see",
    ),
    "clean_caption": (
        False,
        "it takes what stands in angle brackets, as tokens' placeholders do, for markup and drops it",
    ),
}
"""Values that replace pipelines' own defaults, with the reason. A call may set others."""

OURS: Mapping[str, str] = {
    "prompt": "set sampling.prompt",
    "prompt_2": "set sampling.prompt, which all text encoders read",
    "prompt_3": "set sampling.prompt, which all text encoders read",
    "negative_prompt": "set sampling.negative_prompt",
    "num_inference_steps": "set sampling.steps",
    "eta": "set sampling.eta",
    "generator": "set the seed",
    "latents": "set the seed",
    "num_images_per_prompt": "set images_per_class",
    "output_type": "leave it out, images are tensors",
    "return_dict": "leave it out, images are tensors",
}
"""Arguments that the engine sets in each call, and what to do instead of setting them."""

COUNTS = ("height", "width", "max_sequence_length")
"""Arguments that are whole numbers above 0: pipelines take 0 for their own default, and check no number's sign."""

BY_STEP_NUMBER: Mapping[str, str] = {
    "cfg_trunc_ratio": "ends guidance after some steps",
    "skip_guidance_layers": "adds guidance in some steps",
    "denoising_end": "ends after some steps",
    "callback": "is called after each step",
    "callback_on_step_end": "is called after each step",
}
"""Arguments that count a pipeline's steps, and what each does. The engine calls it for one step at a time, so that
it would take every step for the first."""

DECODES_LAST_STEP = ("LatentConsistencyModelPipeline",)
"""Pipelines that decode what their last step gave besides latents: they need one, if only an idle one."""


def decodes_last_step(pipe: Any) -> bool:
    return any(kind.__name__ in DECODES_LAST_STEP for kind in type(pipe).__mro__)


def defaults_of(pipe: Any) -> dict[str, Any]:
    """The arguments of a pipeline's call whose defaults are replaced."""
    takes = arguments_of(pipe.__class__)
    return {name: value for name, (value, _) in DEFAULTS.items() if name in takes}


def check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise ConfigError for arguments that a pipeline does not take, or that are not the caller's to set."""
    if not call:
        return
    takes, kind = arguments_of(pipe.__class__), type(pipe).__name__
    scale = cfg_rule(pipe).argument
    free = sorted(takes - OURS.keys() - BY_STEP_NUMBER.keys() - {"self", scale})
    for name, value in call.items():
        if name not in takes:
            raise ConfigError(
                f"the call of the prior has the argument {name!r}, expected some of {', '.join(free)}, which a {kind} "
                "takes: correct its name, or leave it out."
            )
        if name == scale:
            raise ConfigError(
                f"the call of the prior sets {name!r}, which is its scale of classifier-free guidance, expected "
                "arguments that no other setting is for: set `sampling.cfg`."
            )
        if name in OURS:
            raise ConfigError(
                f"the call of the prior sets {name!r}, expected arguments that no other setting is for: {OURS[name]}."
            )
        if name in BY_STEP_NUMBER:
            raise ConfigError(
                f"the call of the prior sets {name!r}, which {BY_STEP_NUMBER[name]}, expected arguments that hold for "
                "all steps alike: leave it out."
            )
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(
                f"the call of the prior sets {name!r} to {value}, expected a finite number: give one, or leave it out."
            )
        if name in COUNTS and value is not None and not (type(value) is int and value > 0):
            raise ConfigError(
                f"the call of the prior sets {name!r} to {value!r}, expected a whole number above 0: give one, or "
                "leave it out."
            )
