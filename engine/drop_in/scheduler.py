"""A wrapper that guides the steps of a pipeline's own scheduler.

    z' = scheduler.step(output, t, z)  +  factor (moved - clean)

clean is the clean latent that the network's output predicts at t, moved is that latent after guidance, and
factor is the clean latent's share in z': `Step.signal_next`, or 1 for schedulers whose latents grow with the noise
(Euler). The noise that a stochastic step renews is the scheduler's own.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from engine.drop_in.guide import AnyClassifier, AnyTiny, PipelineGuide
from engine.drop_in.run import Run
from engine.errors import ConfigError
from engine.priors.steps import predict
from engine.settings import Alignment


class GuidedScheduler:
    """A stand-in for a pipeline's scheduler that moves images towards a classifier's training domain.

        pipe.scheduler = GuidedScheduler(pipe, classifier, Alignment())
        images = pipe("a photo of a dog", num_images_per_prompt=8).images

    Everything but `step` is the scheduler's own, including its class and its config, so the pipeline can be saved as
    before. `pipe.scheduler = pipe.scheduler.inner` removes guidance. Statistics are taken over all images of a call.
    Half-precision latents are kept in float32 between steps, unless the pipeline changes them in between.

    Args:
        pipe: A text-to-image pipeline of diffusers.
        classifier: Images move towards its training domain. A `Classifier`, or what `load_classifier` takes.
        alignment: How they are moved there.
        classes: Names or numbers of the classifier's classes, one for each image of a call or one for all. Without
            them `Alignment.class_weight` has no effect, because a scheduler does not see the prompt.
        tiny: A small decoder of the same latents, for guidance: a module, folder or hub id.
        call: Arguments that the pipeline's call needs to encode a prompt.
        at_once: How many images may hold a graph at once; None for all, or fewer after memory runs out.
        checkpoint: Whether backward recomputes the decoder's activations.

    Raises:
        ModelError: The pipeline, its scheduler or the classifier is of a kind that cannot be used.
        ConfigError: Settings contradict each other.
    """

    inner: Any
    guide: PipelineGuide

    def __init__(
        self,
        pipe: Any,
        classifier: AnyClassifier,
        alignment: Alignment = Alignment(),
        *,
        classes: Sequence[int | str] | None = None,
        tiny: AnyTiny = None,
        call: Mapping[str, Any] | None = None,
        at_once: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        if alignment.target != "clean":
            raise ConfigError(
                "target is 'noisy' and a scheduler is guided, expected 'clean': it is called behind the network. Use "
                "guiding_callback, which moves what the network sees next."
            )
        scheduler = getattr(pipe, "scheduler", None)
        inner = scheduler.inner if isinstance(scheduler, GuidedScheduler) else scheduler
        guide = PipelineGuide(
            pipe,
            inner,
            classifier,
            alignment,
            classes=classes,
            tiny=tiny,
            call=call,
            at_once=at_once,
            checkpoint=checkpoint,
        )
        self._bind(inner, guide)

    def _bind(self, inner: Any, guide: PipelineGuide) -> None:
        @wraps(inner.step)  # pipelines look for `eta` and `generator` in its signature
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        # Bypass __setattr__, which sets attributes of the inner scheduler. __module__: see __class__.
        self.__dict__.update(
            inner=inner,
            guide=guide,
            step=step,
            __module__=type(inner).__module__,
            _run=None,
            _given=None,
            _exact=None,
        )

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The inner scheduler's class, by which pipelines save, load and recognise it."""
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)

    def __repr__(self) -> str:
        return f"GuidedScheduler of {self.inner!r}"

    def __copy__(self) -> "GuidedScheduler":
        return self._around(copy.copy(self.inner))

    def __deepcopy__(self, memo: dict[int, Any]) -> "GuidedScheduler":
        return self._around(copy.deepcopy(self.inner, memo))

    def _around(self, inner: Any) -> "GuidedScheduler":
        """A wrapper of another scheduler with the same guidance, which shares its models."""
        twin = object.__new__(GuidedScheduler)
        twin._bind(inner, self.guide)
        return twin

    def _step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.guide.alignment.scale:
            return self.inner.step(model_output, timestep, sample, *args, **kwargs)
        named = inspect.signature(self.inner.step).bind(
            model_output, timestep, sample, *args, **kwargs
        )
        churn = named.arguments.get("s_churn")
        if churn:
            raise ConfigError(
                f"s_churn is {churn} and the scheduler is guided, expected 0: a step would begin at a "
                "noise level that is not in the schedule. Leave it out; for renewed noise take "
                "EulerAncestralDiscreteScheduler."
            )
        z = self._exact if sample is self._given else sample
        z = z.to(torch.promote_types(sample.dtype, torch.float32))
        output = model_output.to(z.dtype)
        found = self.inner.step(output, timestep, z, *args, **kwargs)
        is_tuple = isinstance(found, tuple)
        following = self._guided(output, timestep, z, found[0] if is_tuple else found.prev_sample)
        given = following.to(sample.dtype)
        # None: the run has ended.
        kept = (given, following) if self._run is not None else (None, None)
        self.__dict__.update(_given=kept[0], _exact=kept[1])
        if is_tuple:
            return given, *found[1:]
        found.prev_sample = given
        return found

    def _guided(self, output: Tensor, timestep: Any, z: Tensor, following: Tensor) -> Tensor:
        """The scheduler's next latents after z: (N, ...), with the guidance move added."""
        # Leave inference mode: autograd records nothing in it.
        with torch.inference_mode(False), torch.no_grad():
            run, index = self._run_at(timestep, z)
            step = run.steps[index]
            if run.guidance.acts_on(step):
                seen = z.clone() * step.signal if run.grows else z.clone()
                clean = predict(output.clone(), seen, step, run.kind).clean
                moved = run.guidance.move(clean, step) - clean
                following = following + (1.0 if run.grows else step.signal_next) * moved
        if step.is_last:
            run.guidance.check()
            self.__dict__["_run"] = None
        return following

    def _run_at(self, timestep: Any, z: Tensor) -> tuple[Run, int]:
        """The current run, and the index of the step that the scheduler has just made."""
        inner, run = self.inner, self._run
        counted = getattr(inner, "step_index", None)
        if counted is None:
            index = inner.timesteps.tolist().index(int(timestep))
        else:
            index = counted - 1
        if run is None or run.timesteps is not inner.timesteps or index == 0:
            run = Run.of(inner, self.guide, z)
            self.__dict__["_run"] = run
        return run, index
