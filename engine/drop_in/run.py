"""The steps of one run of a pipeline's scheduler, and the guidance of its images."""

from typing import Any, NamedTuple

from torch import Tensor

from engine.drop_in.guide import PipelineGuide
from engine.errors import ConfigError
from engine.guidance.move import Guidance
from engine.priors.steps import EXPLODING, Step, levels


class Run(NamedTuple):
    """One run of a scheduler, from `set_timesteps` to its last step.

    timesteps: the scheduler's own tensor. kind: what the network predicts, one of PREDICTIONS. grows: whether the
    scheduler's latents are z / signal, which grow with the noise.
    """

    timesteps: Tensor
    steps: tuple[Step, ...]
    kind: str
    grows: bool
    guidance: Guidance

    @classmethod
    def of(cls, scheduler: Any, guide: PipelineGuide, z: Tensor) -> "Run":
        """The run that begins with latents z: (N, ...)."""
        found, grows = levels(scheduler), type(scheduler).__name__ in EXPLODING
        steps, guidance = found.steps(z.device), guide.begin(z)
        if guide.alignment.scale and not any(map(guidance.acts_on, steps)):
            raise ConfigError(
                f"none of the pipeline's {len(steps)} step(s) is guided, expected at least one: the last never is, and "
                "`start` and `stop` leave out others. Raise num_inference_steps, or change those."
            )
        return cls(scheduler.timesteps, steps, found.kind, grows, guidance)
