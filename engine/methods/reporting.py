"""What the sampler calls after each step, so that the step is reported."""

from torch import Tensor

from engine.events import Events, Stepped
from engine.guidance.move import Guidance
from engine.priors import Step
from engine.sampling.loop import OnStep


def reporting(
    events: Events,
    task: str,
    guidance: Guidance | None = None,
    *on_clean: OnStep | None,
) -> OnStep:
    """What reports each step, with the loss that guidance measured.

    on_clean: called before, with the step and the clean latents that it went towards.
    """
    measured = 0

    def report(step: Step, clean: Tensor) -> None:
        nonlocal measured
        loss = None
        if events.losses and guidance is not None and len(guidance.curve) > measured:
            measured = len(guidance.curve)
            loss = guidance.curve[-1].mean().item()
        for call in filter(None, on_clean):
            call(step, clean)
        events.emit(Stepped(task, len(clean), step.index, step.total, loss))

    return report
