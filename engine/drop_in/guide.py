"""Guidance for the latents of a diffusers pipeline, prepared for each run."""

import copy
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from engine.classifiers import Classifier, load_classifier
from engine.errors import ConfigError, ModelError
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import decoder_of
from engine.guidance.move import Guidance
from engine.guidance.objective import needed_statistics
from engine.memory.micro_batch import MicroBatches
from engine.priors import Prior
from engine.priors.roles import DECODER, check_pipeline, denoiser_name, dtypes
from engine.priors.steps import check_scheduler
from engine.priors.tiny_sources import check_tiny, load_tiny
from engine.priors.twin import frozen_copy
from engine.settings import Alignment

AnyClassifier = Classifier | str | Path | nn.Module
"""A classifier, or anything that `load_classifier` takes."""
AnyTiny = nn.Module | str | Path | None
"""A tiny decoder, or a folder or hub id to load it from; None for none."""


class PipelineGuide:
    """A classifier, its settings, and the pipeline whose images it guides.

    The pipeline is not changed. Guidance decodes with a frozen copy of its VAE that shares its memory. The copy is made
    when the first run begins, and again if the VAE has been replaced or moved.

    Args:
        pipe: A text-to-image pipeline.
        scheduler: The pipeline's scheduler.
        classifier: Images move towards its training domain.
        alignment: How they are moved there.
        classes: Names or numbers of the classifier's classes, one for each image of a call or one for
            all. Without classes, `Alignment.class_weight` has no effect.
        tiny: A small decoder of the same latents, for guidance.
        call: Arguments that the pipeline's call needs to encode an empty prompt, if its defaults are not enough.
        at_once: How many images may hold a graph at once; None for all, or fewer after memory runs out.
        checkpoint: Whether backward recomputes the decoder's activations.

    Raises:
        ModelError: The pipeline, its scheduler or the classifier is of a kind that cannot be used.
        ConfigError: Settings contradict each other.
    """

    def __init__(
        self,
        pipe: Any,
        scheduler: Any,
        classifier: AnyClassifier,
        alignment: Alignment,
        *,
        classes: Sequence[int | str] | None = None,
        tiny: AnyTiny = None,
        call: Mapping[str, Any] | None = None,
        at_once: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        check_pipeline(pipe)
        check_scheduler(scheduler)
        if not isinstance(classifier, Classifier):
            classifier = load_classifier(classifier, device=pipe.vae.device)
        needed_statistics(classifier, alignment)
        if alignment.polish.steps:
            raise ConfigError(
                f"polish.steps is {alignment.polish.steps}, expected 0: the pipeline decodes its images after its "
                "scheduler's last step. Leave it at 0, or make the images with `engine.generate`."
            )
        if not alignment.domain_weight and classes is None:
            raise ConfigError(
                "domain_weight is 0 and there are no `classes`, expected one of them: guidance would have nothing to "
                "descend. Name the classes of the images, or raise the weight."
            )
        self.pipe, self.scheduler = pipe, scheduler
        self.classifier, self.alignment = classifier, alignment
        self.classes = None if classes is None else _numbers(classifier, classes)
        self.call = dict(call or {})
        self.checkpoint = checkpoint
        self.parts = MicroBatches({} if at_once is None else {"guidance": at_once})
        found = _tiny_for(tiny, pipe.vae, type(pipe).__name__)
        self._tiny = tiny if found is None or found is pipe.vae else found
        self._made_for: tuple[Any, ...] = ()
        self._priors: dict[tuple[int, int], Prior] = {}

    def begin(self, z: Tensor) -> Guidance:
        """New guidance for a run of N images with latents z: (N, ...)."""
        if self.classifier.device != z.device:
            raise ConfigError(
                f"classifier {self.classifier.name!r} is on {self.classifier.device} and the pipeline's latents are on "
                f"{z.device}, expected both on one device: load it with load_classifier(..., device={str(z.device)!r})."
            )
        decoder = decoder_of(
            self.alignment, self._prior(z), self.classifier.preprocess, self.checkpoint
        )
        return guidance_of(
            self.classifier,
            self.alignment,
            decoder,
            self._classes_of(z),
            partial(self.parts.attempt, "guidance"),
        )

    def _classes_of(self, z: Tensor) -> Tensor | None:
        if self.classes is None:
            return None
        if len(self.classes) not in (1, len(z)):
            raise ConfigError(
                f"classes has {len(self.classes)} entries and the pipeline makes {len(z)} images, expected one for "
                "each image or one for all: wrap the scheduler again with the classes of this call."
            )
        return torch.tensor(self.classes, device=z.device).expand(len(z))

    def _prior(self, z: Tensor) -> Prior:
        """The pipeline as a prior for the image size of the current run."""
        vae, denoiser = self.pipe.vae, getattr(self.pipe, denoiser_name(self.pipe))
        made_for = (vae, vae.device, vae.dtype, denoiser.device)
        if made_for != self._made_for:
            own = self._new_prior()
            self._priors, self._made_for = {own.image_size: own}, made_for
        own = next(iter(self._priors.values()))
        size = _size(self.pipe, own, z)
        if size not in self._priors:
            height, width = size
            self._priors[size] = own.called_with(height=height, width=width)
        found = self._priors[size]
        if found.latent_shape(len(z)) != z.shape:
            raise ModelError(
                f"the pipeline samples latents {tuple(z.shape)} for {size[0]} x {size[1]} px, expected "
                f"{tuple(found.latent_shape(len(z)))}, as its defaults make them: pass what differs as `call`."
            )
        return found

    def _new_prior(self) -> Prior:
        check_pipeline(self.pipe)  # hooks may have been added since
        dtype = dtypes(self.pipe, None)[DECODER]
        twin = copy.copy(self.pipe)
        # Bypass the pipeline's __setattr__, which would register these as its components.
        twin.__dict__["scheduler"] = copy.deepcopy(self.scheduler)
        twin.__dict__["vae"] = vae = frozen_copy(self.pipe.vae, dtype=dtype)
        name = type(self.pipe).__name__
        tiny = _tiny_for(self._tiny, vae, name)  # the VAE may have been replaced
        if tiny is not None and tiny is not vae:
            tiny = frozen_copy(tiny, vae.device, dtype)
        return Prior(twin, name, tiny=tiny, call=self.call, mark="")


def _tiny_for(tiny: AnyTiny, vae: Any, pipeline: str) -> nn.Module | None:
    """The tiny decoder for a VAE's latents, loaded if it is named; None for none."""
    if not isinstance(tiny, nn.Module):
        return load_tiny(tiny, vae, pipeline)
    check_tiny(tiny, vae, pipeline)
    return tiny


def _size(pipe: Any, own: Prior, z: Tensor) -> tuple[int, int]:
    """Height and width in pixels of the images that latents z: (N, ...) decode to."""
    shape, known = z.shape[1:], own.latent_shape(1)[1:]
    if shape == known and len(shape) > 2:
        return own.image_size
    if len(shape) > 2:
        high, wide = (
            own.image_size[axis] * shape[axis - 2] // known[axis - 2] for axis in range(2)
        )
        return high, wide
    return _size_of_call(type(pipe).__name__)


def _size_of_call(name: str) -> tuple[int, int]:
    """Height and width in pixels that the pipeline's current call asks for.

    Packed latents (N, L, C) do not reveal height and width, and a scheduler receives nothing else. So the
    pipeline's call is looked up on the call stack.
    """
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name == "__call__":
            values = frame.f_locals
            if isinstance(values.get("self"), DiffusionPipeline) and values.get("height"):
                return int(values["height"]), int(values["width"])
    raise ModelError(
        f"the latents of a {name} are packed and its scheduler was not called by the pipeline, expected a call "
        "pipe(...), which knows height and width: sample by the pipeline itself."
    )


def _numbers(classifier: Classifier, classes: Sequence[int | str]) -> tuple[int, ...]:
    """The class numbers for a list of names or numbers."""
    labels = classifier.labels
    found = []
    for one in classes:
        if isinstance(one, str):
            number = labels.index(one) if one in labels else -1
        else:
            number = -1 if isinstance(one, bool | float) else int(one)  # also a number of numpy
        if not 0 <= number < len(labels):
            raise ConfigError(
                f"classes has {one!r}, expected names or numbers of the {len(labels)} classes of classifier "
                f"{classifier.name!r}, {', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}: correct it."
            )
        found.append(number)
    return tuple(found)
