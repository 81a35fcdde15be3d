"""Where images of a prior are not those of its pipeline's own call: said before a run."""

import inspect
import warnings
from typing import Any

from engine.errors import PriorWarning
from engine.priors.cfg import TRUE_CFG


def warn_of_differences(pipe: Any, cfg: float) -> None:
    """Warn (PriorWarning) of CFG that the pipeline does not use by itself, and of a sampler of higher order."""
    scale = inspect.signature(type(pipe).__call__).parameters.get(TRUE_CFG)
    if scale is not None and scale.default == 1 and cfg > 1:
        _warn(
            f"cfg is {cfg:g} and a {type(pipe).__name__} uses no classifier-free guidance by default, expected a cfg "
            "of 1: distilled networks lose quality with more, and each step takes two passes. Set cfg to 1, unless "
            "the model's page names a cfg."
        )
    order = pipe.scheduler.config.get("solver_order", 1)
    if order > 1:
        _warn(
            f"the prior's {type(pipe.scheduler).__name__} is of order {order} and steps here are of order 1, expected "
            "images of the same noise levels, not those of the pipeline: take a few steps more, or guide the pipeline "
            "itself with GuidedScheduler, which keeps its steps."
        )


def _warn(text: str) -> None:
    warnings.warn(text, PriorWarning, stacklevel=4)
