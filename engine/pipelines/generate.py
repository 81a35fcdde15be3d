"""From a classifier and class names to aligned images: the main job.

Images are sampled in groups. With batch statistics the images of a group share their moments, so which images are in
it is a pure function of the request (`groups`), stands in each manifest row, and is the unit of continuing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import Alignment, Sampling
from engine.errors import ConfigError
from engine.guidance.losses import domain_loss, judged
from engine.guidance.steer import DomainSteer, Unguided, loss_scale
from engine.memory.measure import peak_bytes
from engine.models import Classifier, Prior, load_classifier, load_prior
from engine.models.decoder import GuidanceDecoder, decoder_of
from engine.outputs.dataset import open_dataset
from engine.pipelines.classes import class_numbers
from engine.pipelines.runtime import Descend, Runtime, engines
from engine.prompts import class_prompt
from engine.sampling.ddim import OnStep, sample
from engine.sampling.noise import ImageNoise
from engine.tokens.table import TokenTable, attached, check_fit, load_tokens
from engine.types import ImageKey, Sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request with its models loaded and checked against each other; without guidance it has no decoder.

    descend: what guidance descends with where it is not autograd.
    """

    classifier: Classifier
    prior: Prior
    classes: tuple[int, ...]
    images_per_class: int
    tokens: TokenTable | None
    alignment: Alignment | None
    sampling: Sampling
    seed: int
    decoder: GuidanceDecoder | None
    runtime: Runtime = "torch"
    descend: Descend | None = None

    @property
    def labels(self) -> dict[int, str]:
        return {number: self.classifier.labels[number] for number in self.classes}

    @property
    def joint(self) -> bool:
        """Whether the images of a group depend on each other."""
        return self.alignment is not None and self.alignment.statistics == "batch"

    def token_of(self, class_index: int) -> str:
        return self.tokens.name_of(class_index) if self.tokens is not None else ""

    def prompt_of(self, class_index: int) -> str:
        return class_prompt(self.classifier.labels[class_index], self.token_of(class_index))

    def steer(self, keys: Sequence[ImageKey]) -> DomainSteer | Unguided:
        """A fresh steer for the batch of these images."""
        if self.alignment is None or (decoder := self.decoder) is None:
            return Unguided()
        classes = torch.tensor([key.class_index for key in keys], device=self.classifier.device)
        loss = domain_loss(self.classifier, self.alignment, classes=classes)
        scale = loss_scale(decoder.vae.dtype, self.classifier.dtype)
        descend = self.descend and partial(self.descend, classes=classes)
        return DomainSteer(lambda z: loss(decoder(z)), self.alignment, scale, descend)

    def groups(self) -> list[list[ImageKey]]:
        """The images of the job in groups of nearly equal size, classes mixed; a function of the request alone."""
        keys = [ImageKey(number, index) for index in range(self.images_per_class) for number in self.classes]
        count = -(-len(keys) // self.sampling.batch)
        bounds = [len(keys) * number // count for number in range(count + 1)]
        return [keys[start:stop] for start, stop in pairwise(bounds)]

    def describe(self) -> dict[str, Any]:
        """Everything that the images depend on, as JSON values: what `run.json` keeps and continuing compares."""
        return {
            "classifier": self.classifier.describe(),
            "prior": self.prior.describe(),
            "classes": list(self.labels.values()),
            "images_per_class": self.images_per_class,
            "tokens": None if self.tokens is None else self.tokens.fingerprint,
            "alignment": None if self.alignment is None else asdict(self.alignment),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "runtime": self.runtime,
        }


def generate(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    tokens: TokenTable | str | Path | None = None,
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    seed: int = 0,
    out: str | Path | None = None,
    on_step: OnStep | None = None,
    runtime: Runtime = "torch",
    onnx_cache: str | Path | None = None,
) -> Iterator[Sample]:
    """Yield images distributed like the classifier's training set, and with `out` write them as a dataset folder.

    classifier, prior: objects, or what `load_classifier` and `load_prior` take. classes: some of the classifier's
    labels; all of them if None. tokens: learned class alignment tokens, or their file. alignment: None samples the
    plain prior. out: a folder; one that holds a part of the same run is continued, and only what was missing is
    yielded. runtime: "onnx" samples and guides in ONNX Runtime, without autograd; onnx_cache: a folder for its graphs,
    which the first run with these models and settings exports. The models are loaded and every argument is checked
    before this returns; images are made as the iterator is read. Raises EngineError's children for each mistake that
    is the caller's.
    """
    job = prepare(
        classifier, prior, classes, images_per_class, tokens, alignment, sampling, seed, runtime, onnx_cache
    )
    if out is None:
        return (image for group in job.groups() for image in sample_group(job, group, on_step))
    with open_dataset(out, job.describe(), job.labels):
        pass  # refuses now what it would refuse at the first image
    return write(job, out, on_step)


def write(job: Job, out: str | Path, on_step: OnStep | None = None) -> Iterator[Sample]:
    """Write what is missing of a job's dataset folder, yielding each image once it is on the disk."""
    began = time.monotonic()
    with open_dataset(out, job.describe(), job.labels) as writer:
        for group in job.groups():
            missing = [key for key in group if key not in writer.done]
            for image in sample_group(job, group if job.joint else missing, on_step) if missing else ():
                if image.key in missing:
                    writer.add(image)
                    yield image
        writer.finish(
            {
                "device": str(job.prior.device),
                "peak_bytes": peak_bytes(job.prior.device),
                "seconds": round(time.monotonic() - began, 2),
            }
        )


def prepare(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    tokens: TokenTable | str | Path | None = None,
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    seed: int = 0,
    runtime: Runtime = "torch",
    onnx_cache: str | Path | None = None,
) -> Job:
    """Load what is named and check it all against each other. Takes what `generate` takes."""
    if images_per_class < 1:
        raise ConfigError(
            f"images_per_class is {images_per_class}, expected at least 1: ask for a positive number."
        )
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected a whole number >= 0: give a non-negative one.")
    if alignment is not None and sampling.steps < 2:
        raise ConfigError(
            "sampling has 1 step and alignment is on, expected at least 2 steps: the last step is never guided, so "
            "nothing would be. Raise the steps, or pass alignment=None."
        )
    if not isinstance(classifier, Classifier):
        classifier = load_classifier(classifier)
    chosen = class_numbers(classifier, classes)
    if not isinstance(prior, Prior):
        prior = load_prior(prior, device=classifier.device)
    if isinstance(tokens, str | Path):
        tokens = load_tokens(tokens, prior, classifier)
    elif tokens is not None:
        check_fit(tokens, prior, classifier)
    prior.schedule(sampling.steps)  # refuses now more steps than the prior has noise levels
    decoder = decoder_of(alignment, prior, classifier.preprocess) if alignment else None
    prior, descend = engines(runtime, prior, classifier, alignment, decoder, onnx_cache)
    return Job(
        classifier=classifier,
        prior=prior,
        classes=chosen,
        images_per_class=images_per_class,
        tokens=tokens,
        alignment=alignment,
        sampling=sampling,
        seed=seed,
        decoder=decoder,
        runtime=runtime,
        descend=descend,
    )


def sample_group(job: Job, keys: Sequence[ImageKey], on_step: OnStep | None = None) -> list[Sample]:
    """Sample the images of one group together."""
    prior, classifier, sampling = job.prior, job.classifier, job.sampling
    prompts = [job.prompt_of(key.class_index) for key in keys]
    with torch.no_grad(), attached(prior, job.tokens) if job.tokens else nullcontext(prior) as speaking:
        different = list(dict.fromkeys(prompts))
        context = speaking.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
        null = speaking.encode_prompts([sampling.negative_prompt])
    steer = job.steer(keys)
    noise = ImageNoise(job.seed, keys, prior.latent_shape, prior.device)
    with torch.no_grad():
        z = sample(
            noise.draw(),
            prior.denoiser(context, null, sampling.cfg),
            prior.schedule(sampling.steps),
            steer,
            on_step,
            sampling.eta,
            noise,
        )
        images = prior.decode(z)
        logits, distances = judged(classifier, images)
    curves: list[tuple[float, ...]] = [()] * len(keys)
    if isinstance(steer, DomainSteer):
        steer.check()
        if steer.curve:
            curves = [tuple(row) for row in torch.stack(steer.curve).expand(-1, len(keys)).T.tolist()]
    confidence = logits.softmax(1)
    members = " ".join(f"{key.class_index}.{key.index}" for key in keys) if job.joint else ""
    return [
        Sample(
            key=key,
            label=classifier.labels[key.class_index],
            seed=job.seed,
            prompt=prompts[row],
            token=job.token_of(key.class_index),
            image=images[row].float().cpu(),
            logits=logits[row].float().cpu(),
            l_bn=distances[row].item(),
            confidence=confidence[row, key.class_index].item(),
            group=members,
            curve=curves[row],
        )
        for row, key in enumerate(keys)
    ]
