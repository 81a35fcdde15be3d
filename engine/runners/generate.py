"""From a classifier and class names to aligned images: the main job.

Images are sampled in groups. With batch statistics the images of a group share their moments, so which images are in
it is a pure function of the request (`groups`), stands in each manifest row, and is the unit of continuing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier
from engine.datasets.dataset import open_dataset
from engine.errors import ConfigError
from engine.guidance.domain import judged
from engine.memory.apply import applied
from engine.memory.budget import AUTO
from engine.memory.measure import peak_bytes
from engine.memory.micro_batch import denoise_in_parts
from engine.memory.plan import Plan
from engine.methods.descent import OnIteration
from engine.methods.registry import BASELINES, DDIS, PLAIN
from engine.models import Prior
from engine.runners.baseline_job import BaselineJob, invert_group, prepare_baseline
from engine.runners.job import Job, prepare
from engine.runners.runtime import Runtime
from engine.sampling.ddim import OnStep, sample
from engine.sampling.noise import ImageNoise
from engine.settings import AUTO_ATTENTION, Alignment, Sampling
from engine.settings.inversion import InversionSettings
from engine.tokens.table import TokenTable, attached
from engine.types import ImageKey, Sample


def generate(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    tokens: TokenTable | str | Path | None = None,
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    memory: str | int | Plan = AUTO,
    seed: int = 0,
    out: str | Path | None = None,
    on_step: OnStep | OnIteration | None = None,
    runtime: Runtime = "torch",
    onnx_cache: str | Path | None = None,
    method: str | InversionSettings = DDIS,
    student: str | Path | nn.Module | Classifier | None = None,
    attention: str = AUTO_ATTENTION,
    graphs: bool = True,
) -> Iterator[Sample]:
    """Yield images distributed like the classifier's training set, and with `out` write them as a dataset folder.

    classifier, prior: objects, or what `load_classifier` and `load_prior` take. classes: some of the classifier's
    labels; all of them if None. tokens: learned class alignment tokens, or their file. alignment: None samples the
    plain prior. memory: what the run may take, as '12GB', '11.5GiB', bytes or 'auto' for all that is free, or a plan;
    it decides how images are made, and but for rounding not which. out: a folder; one that holds a part of the same
    run is continued, and only what was missing is yielded. runtime: "onnx" samples and guides in ONNX Runtime, without
    autograd and without a plan; onnx_cache: a folder for its graphs, which the first run with these models and
    settings exports. attention: "sdpa", "xformers" (CUDA, extra 'gpu') or "auto", which is xformers where it is no
    slower. graphs: whether UNet and guidance may be replayed from CUDA graphs, where the plan has room for them; the
    result is the same. method: 'plain' is the prior alone, which is 'ddis' without alignment and tokens;
    'deepinversion', 'plugin-inversion', 'natural-inversion' or the settings of one (`DeepInversion()`) make images from
    the classifier alone, without what belongs to a prior; student: for adaptive DeepInversion. The models are loaded
    and every argument is checked before this returns; images are made as the iterator is read, and none if it is not.
    Raises EngineError's children for each mistake that is the caller's; warns with MemoryWarning where memory runs out
    and it goes on with fewer images at once.
    """
    job: Job | BaselineJob
    if method in (DDIS, PLAIN):
        if method == PLAIN:
            check_unused(method, tokens=tokens, alignment=alignment or Alignment())
            alignment = None
        if student is not None:
            raise ConfigError(
                f"a student is given with method {method!r}, expected none: it is for adaptive DeepInversion. Leave "
                "it out, or pass method=DeepInversion(competition=10)."
            )
        job = prepare(
            classifier,
            prior,
            classes,
            images_per_class,
            tokens,
            alignment,
            sampling,
            seed,
            memory,
            runtime,
            onnx_cache,
            attention=attention,
            graphs=graphs,
        )
    else:
        check_unused(
            method,
            prior=prior,
            tokens=tokens,
            alignment=alignment or Alignment(),
            sampling=sampling,
            memory=memory,
            runtime=runtime,
            onnx_cache=onnx_cache,
            attention=attention,
            graphs=graphs,
        )
        job = prepare_baseline(classifier, method, classes, images_per_class, seed, student)
    if out is None:
        return (image for group in job.groups() for image in make_group(job, group, on_step))
    with open_dataset(out, job.describe(), job.labels):
        pass  # refuses now what it would refuse at the first image
    return write(job, out, on_step)


def check_unused(method: str | InversionSettings, **given: object) -> None:
    """Raise ConfigError where another method is given what belongs to DDIS and is not `generate`'s default."""
    defaults = signature(generate).parameters
    for name, value in given.items():
        if isinstance(value, Prior) or value != defaults[name].default:
            raise ConfigError(
                f"{name} is given with method {getattr(method, 'name', method)!r}, expected none: it belongs to "
                f"method {DDIS!r}{_unused_because(method)}"
            )


def _unused_because(method: str | InversionSettings) -> str:
    if method == PLAIN:
        return f", of which {PLAIN!r} is what remains without guidance and tokens. Leave it out, or choose {DDIS!r}."
    fields = ", ".join(settings.__name__ for settings in BASELINES.values())
    return (
        f", and the others need no prior. Leave it out; their own settings are fields of {fields}."
    )


def write(
    job: Job | BaselineJob,
    out: str | Path,
    on_step: OnStep | OnIteration | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> Iterator[Sample]:
    """Write what is missing of a job's dataset folder, yielding each image once it is on the disk.

    on_begin: told how many images `on_step` will see; of groups that are made jointly, those that are done too.
    """
    began = time.monotonic()
    with open_dataset(out, job.describe(), job.labels) as writer:
        lacks = [
            (group, [key for key in group if key not in writer.done]) for group in job.groups()
        ]
        begun = [(group if job.joint else missing, missing) for group, missing in lacks if missing]
        if on_begin is not None:
            on_begin(sum(len(group) for group, _ in begun))
        for group, missing in begun:
            for image in make_group(job, group, on_step):
                if image.key in missing:
                    writer.add(image)
                    yield image
        plan = None if isinstance(job, BaselineJob) else job.plan
        writer.finish(
            {
                "device": str(job.device),
                "peak_bytes": peak_bytes(job.device),
                "seconds": round(time.monotonic() - began, 2),
                "memory_plan": None if plan is None else plan.to_json(),
            }
        )


def make_group(
    job: Job | BaselineJob, keys: Sequence[ImageKey], on_step: OnStep | OnIteration | None = None
) -> list[Sample]:
    """Make the images of one group together, by the job's method."""
    if isinstance(job, BaselineJob):
        return invert_group(job, keys, cast(OnIteration | None, on_step))
    return sample_group(job, keys, cast(OnStep | None, on_step))


def sample_group(job: Job, keys: Sequence[ImageKey], on_step: OnStep | None = None) -> list[Sample]:
    """Sample the images of one group together."""
    prior, classifier, sampling, parts = job.prior, job.classifier, job.sampling, job.parts
    prompts = [job.prompt_of(key.class_index) for key in keys]
    guidance = job.guidance(keys)
    noise = ImageNoise(job.seed, keys, prior.latent_shape, prior.device)
    with torch.no_grad(), applied(job.plan, prior) as phase:
        with (
            phase("text"),
            attached(prior, job.tokens) if job.tokens else nullcontext(prior) as speaking,
        ):
            different = list(dict.fromkeys(prompts))
            encoded = torch.cat(parts.split("text", speaking.encode_prompts, different))
            context = encoded[[different.index(prompt) for prompt in prompts]]
            null = parts.split("text", speaking.encode_prompts, [sampling.negative_prompt])[0]
        with phase("sampling"):
            denoise = guidance.before(denoise_in_parts(prior, context, null, sampling.cfg, parts))
            schedule = prior.schedule(sampling.steps)
            z = sample(noise.draw(), denoise, schedule, guidance.move, on_step, sampling.eta, noise)
        with phase("decode"):
            finished = parts.split("decode", lambda rows: _finished(prior, classifier, rows), z)
    images, logits, distances = (torch.cat(values) for values in zip(*finished, strict=True))
    guidance.check()
    curves: list[tuple[float, ...]] = [()] * len(keys)
    skipped = guidance.skipped or [0] * len(keys)
    if guidance.curve:
        curves = [
            tuple(row) for row in torch.stack(guidance.curve).expand(-1, len(keys)).T.tolist()
        ]
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
            skipped=skipped[row],
        )
        for row, key in enumerate(keys)
    ]


def _finished(prior: Prior, classifier: Classifier, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images of finished latents, and what `judged` says of them."""
    images = prior.decode(z)
    return images, *judged(classifier, images)
