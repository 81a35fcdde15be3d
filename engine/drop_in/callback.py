"""Guidance between a pipeline's steps, for pipelines whose scheduler must not be replaced.

    pipe(..., callback_on_step_end=guiding_callback(pipe, classifier))

A callback receives the latents at the end of a step, but not the network's prediction. So it can move z_t as the paper
does (`Alignment.target` "noisy"), but not the predicted clean latent, and the input of the first step is not guided.
Some pipelines, such as those of PixArt, accept no callback.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.drop_in.guide import AnyClassifier, AnyTiny, PipelineGuide
from engine.drop_in.run import Run
from engine.errors import ConfigError, ModelError
from engine.priors.roles import arguments_of
from engine.settings import Alignment

ARGUMENT = "callback_on_step_end"
Callback = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]
"""(pipeline, index of the step, its timestep, tensors by name) -> the tensors that the pipeline continues with."""


def guiding_callback(
    pipe: Any,
    classifier: AnyClassifier,
    alignment: Alignment = Alignment(target="noisy"),
    *,
    classes: Sequence[int | str] | None = None,
    tiny: AnyTiny = None,
    call: Mapping[str, Any] | None = None,
    at_once: int | None = None,
    checkpoint: bool = False,
) -> Callback:
    """Return a `callback_on_step_end` that moves the latents of each step but the first; see `GuidedScheduler`.

    Args:
        pipe: The pipeline that the callback will be passed to.
        classifier: As for `GuidedScheduler`.
        alignment: How latents are moved, with target "noisy", such as `Alignment.paper()`.
        classes: As for `GuidedScheduler`.
        tiny: A small decoder for guidance.
        call: Arguments that the pipeline's call needs to encode a prompt.
        at_once: How many images may hold a graph at once.
        checkpoint: Whether backward recomputes the decoder's activations.

    Raises:
        ModelError: The pipeline takes no callback, or cannot be guided at all.
        ConfigError: Settings contradict each other, or would move the predicted clean latent.
    """
    if ARGUMENT not in arguments_of(pipe.__class__):
        raise ModelError(
            f"a {type(pipe).__name__} takes no {ARGUMENT}, expected a pipeline that does: guide it by "
            "`pipe.scheduler = GuidedScheduler(pipe, ...)`."
        )
    if alignment.target != "noisy":
        raise ConfigError(
            "target is 'clean' and guidance is a callback, expected 'noisy': between two steps there is no predicted "
            "clean latent. Set it, or use GuidedScheduler."
        )
    guide = PipelineGuide(
        pipe,
        pipe.scheduler,
        classifier,
        alignment,
        classes=classes,
        tiny=tiny,
        call=call,
        at_once=at_once,
        checkpoint=checkpoint,
    )
    return _Between(guide)


class _Between:
    """Move the latents at the end of a step, at the noise level of the next step."""

    def __init__(self, guide: PipelineGuide) -> None:
        self.guide = guide
        self.run: Run | None = None

    def __call__(
        self, pipe: Any, index: int, _: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if "latents" not in tensors:
            raise ConfigError(
                f"callback_on_step_end_tensor_inputs has {', '.join(tensors) or 'nothing'}, expected 'latents' among "
                "them, which guidance moves: add it, or leave the argument out."
            )
        latents = tensors["latents"]
        # Leave inference mode: autograd records nothing in it.
        with torch.inference_mode(False), torch.no_grad():
            z = latents.clone().float()
            if self.run is None or index == 0:
                self.run = Run.of(pipe.scheduler, self.guide, z)
            run = self.run
            if index + 1 == len(run.steps):
                run.guidance.check()
                self.run = None
                return tensors
            step = run.steps[index + 1]
            unit = step.signal if run.grows else 1.0
            moved = run.guidance.seen(unit * z, step) / unit
        return tensors | {"latents": moved.to(latents.dtype)}
