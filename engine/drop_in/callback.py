"""Guidance between a pipeline's steps, where its scheduler has to stay as it is.

    pipe(..., callback_on_step_end=guiding_callback(pipe, classifier))

A callback is handed the latents that a step ended with, and nothing that the network predicted of them. So it can move
z_t as the paper does (`Alignment.target` "noisy"), but not the predicted clean latent, and what the first step sees is
not guided. Some pipelines, those of PixArt among them, take no callback.
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
"""(pipeline, number of the step, its timestep, tensors by name) -> those that the pipeline goes on with."""


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
    """A `callback_on_step_end` that moves the latents of each step but the first; see `GuidedScheduler`.

    Args:
        pipe: The pipeline that it will be handed to.
        classifier: As `GuidedScheduler` takes it.
        alignment: How latents are moved, with target "noisy", such as `Alignment.paper()`.
        classes: As `GuidedScheduler` takes them, and so on.
        tiny: A small decoder to look through.
        call: Arguments of the pipeline's call without which it encodes no prompt.
        at_once: How many images may hold a graph at once.
        checkpoint: Whether backward recomputes the decoder's activations.

    Raises:
        ModelError: The pipeline takes no callback, or cannot be guided at all.
        ConfigError: Settings make no sense together, or would move the predicted clean latent.
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
    """Moves what a step ended with, by the noise level of the step that follows."""

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
        # Outside of inference mode, in which autograd records nothing.
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
