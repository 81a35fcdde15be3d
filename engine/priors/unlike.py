"""Where images of a prior are not those of its pipeline's own call: said before a run."""

import inspect
import warnings
from typing import Any

from engine.errors import PriorWarning
from engine.priors.cfg import TRUE_CFG


def warn_of_differences(pipe: Any, cfg: float) -> None:
    """Warn (PriorWarning) of CFG on top of what a network was distilled with, and of a sampler of higher order."""
    scale = inspect.signature(type(pipe).__call__).parameters.get(TRUE_CFG)
    if scale is not None and scale.default == 1 and cfg > 1:
        _warn(
            f"cfg is {cfg:g} and a {type(pipe).__name__} has guidance in its network already, expected a cfg of 1: "
            "with more, each step takes two passes and images are guided twice. Set cfg to 1, unless you want that."
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
