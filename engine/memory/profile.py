"""Where the time of a guided step goes, and what guidance costs compared with the plain one."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from engine.classifiers.base import Classifier
from engine.errors import ConfigError
from engine.files import check_writable, explained
from engine.guidance.assembly import guidance_of
from engine.guidance.decoder import GuidanceDecoder, decoder_of
from engine.memory.case import Case
from engine.memory.layout import lay_out_as_chosen
from engine.memory.phases import count_case
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.priors import Prior
from engine.sampling.loop import sample
from engine.settings import Alignment, Sampling
from engine.settings.sampling import MOST_TOGETHER

OWN_KERNELS = ("ddis::", "_BnActMoments", "_Alignment", "_ChannelMoments")
"""How the names of this package's operators and their autograd functions begin, in a profile."""
REPEATS = 3
"""Steps whose median is the time of one."""
QUIET_PROFILER = ("KINETO_LOG_LEVEL", "6")
"""Torch's profiler otherwise tells each of its starts on stderr."""
MARKS = ("step", "sampling", "guidance", "decode", "classifier")
"""The names that this module gives to stretches of a step."""
OPERATORS = ("aten::", *OWN_KERNELS)


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """One guided step of a batch. milliseconds: by part (see `profile_step`). ratios: guided over plain step."""

    images: int
    device: str
    milliseconds: dict[str, float]
    plain_ms: float
    guided_ms: float
    time_ratio: float
    flops_ratio: float
    trace: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def profile_step(
    prior: Prior,
    classifier: Classifier,
    images: int = 4,
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    trace: str | Path | None = None,
    repeats: int = REPEATS,
) -> StepProfile:
    """Profile one guided step.

    Its parts are the denoiser, decode, classifier (forward), backward (of decoder and classifier), own kernels (within
    these two), and host gaps: time in which no operator ran, on CUDA no kernel.

    Args:
        prior: loaded, on the device that is measured.
        classifier: loaded, on the same device.
        images: how many are sampled together.
        alignment: settings of guidance.
        sampling: settings of the sampler, for CFG.
        trace: file for a Chrome trace.
        repeats: runs whose median is the time of a step.

    Raises ConfigError for fewer images or repeats than 1, and for more images than one batch may have; OutputError if
    the trace cannot be written.
    """
    if images < 1 or repeats < 1:
        raise ConfigError(
            f"profiling got {images} images and {repeats} repeats, expected at least 1 of each: give positive numbers."
        )
    if images > MOST_TOGETHER:
        raise ConfigError(
            f"images is {images}, expected at most {MOST_TOGETHER}, as many as one batch may have: lower it."
        )
    if trace is not None:
        check_writable(Path(trace))
    lay_out_as_chosen(prior, classifier)
    works = _works(prior, classifier, images, alignment, sampling.cfg)
    for work in works.values():
        work()  # what is set up once: layers paired, kernels chosen, memory taken
    plain, guidance = (_median_ms(works[name], prior.device, repeats) for name in works)
    milliseconds = _parts(works, prior.device, Path(trace) if trace else None)
    hollow = Subject(
        prior=skeleton_prior(prior),
        classifier=skeleton_classifier(classifier),
        alignment=alignment,
        cfg=sampling.cfg,
    )
    flops = {name: count_case(hollow, Case(name, images, images)).flops for name in works}
    return StepProfile(
        images=images,
        device=str(prior.device),
        milliseconds=milliseconds,
        plain_ms=round(plain, 3),
        guided_ms=round(plain + guidance, 3),
        time_ratio=round(1 + guidance / plain, 4),
        flops_ratio=round(1 + alignment.moves * flops["guidance"] / flops["sampling"], 4),
        trace=str(trace) if trace else "",
    )


def _works(
    prior: Prior, classifier: Classifier, images: int, alignment: Alignment, cfg: float
) -> dict[str, Callable[[], object]]:
    """The two halves of a guided step: the plain step ('sampling') and the gradients of its moves ('guidance')."""
    decoder = _NamedDecoder(**vars(decoder_of(alignment, prior, classifier.preprocess)))
    z = torch.randn(prior.latent_shape(images), device=prior.device)
    schedule = prior.schedule(2)[:1]
    classes = torch.arange(images, device=prior.device) % len(classifier.labels)
    with torch.no_grad():
        context = prior.encode(["a photo"] * images, None if cfg == 1 else "")
        denoise = prior.denoiser(context, cfg)
    found = guidance_of(classifier, alignment, decoder, classes)

    @torch.no_grad()
    def sampling() -> object:
        return sample(z, denoise, schedule)

    def guidance() -> object:
        with _named(classifier.network, "classifier"):
            return [found.descend(z, found.scale) for _ in range(alignment.moves)]

    return {"sampling": sampling, "guidance": guidance}


class _NamedDecoder(GuidanceDecoder):
    """One whose passes stand in profiles as 'decode'."""

    def __call__(self, latents: Tensor) -> Tensor:
        with record_function("decode"):
            return super().__call__(latents)


@contextmanager
def _named(module: nn.Module, name: str) -> Iterator[None]:
    """Inside the block, each pass of a module stands in profiles under a name."""
    running: list[Any] = []

    def begin(*_: object) -> None:
        running.append(record_function(name))
        running[-1].__enter__()

    def end(*_: object) -> None:
        running.pop().__exit__(None, None, None)

    hooks = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _median_ms(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    def once() -> float:
        _synchronise(device)
        began = time.perf_counter()
        work()
        _synchronise(device)
        return 1000 * (time.perf_counter() - began)

    return sorted(once() for _ in range(repeats))[repeats // 2]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parts(
    works: dict[str, Callable[[], object]], device: torch.device, trace: Path | None
) -> dict[str, float]:
    """Milliseconds of each part in one step under torch's profiler, which adds some to each operator."""
    os.environ.setdefault(*QUIET_PROFILER)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found, record_function("step"):
        for name, work in works.items():
            with record_function(name):
                work()
        _synchronise(device)
    if trace is not None:
        with explained(trace):
            trace.parent.mkdir(parents=True, exist_ok=True)
            found.export_chrome_trace(str(trace))
    return by_part(list(found.events() or ()), cuda)


def by_part(events: Sequence[Any], cuda: bool) -> dict[str, float]:
    """Milliseconds of each part from a profile's events.

    On CUDA the profiler repeats each name as an annotation of the GPU's own timeline, which spans gaps between kernels:
    a part's time is that of the kernels which its entry on the host launched; only kernels and copies make a GPU busy.
    """

    host = [event for event in events if event.device_type == DeviceType.CPU]

    def total(*prefixes: str) -> float:
        chosen = [event for event in host if event.name.startswith(prefixes)]
        return sum(event.device_time_total if cuda else event.cpu_time_total for event in chosen)

    step = next(event for event in host if event.name == "step").time_range
    named = {event.name for event in host if event.is_user_annotation} | {*MARKS}
    busy = [
        (event.time_range.start, event.time_range.end)
        for event in events
        if (
            event.device_type == DeviceType.CUDA and event.name not in named
            if cuda
            else event.device_type == DeviceType.CPU and event.name.startswith(OPERATORS)
        )
    ]
    guidance, decode, classifier = (total(name) for name in ("guidance", "decode", "classifier"))
    microseconds = {
        "denoiser": total("sampling"),
        "decode": decode,
        "classifier": classifier,
        "backward": max(0.0, guidance - decode - classifier),
        "own kernels": total(*OWN_KERNELS),
        "host gaps": step.elapsed_us() - covered(busy),
        "step": step.elapsed_us(),
    }
    return {name: round(value / 1000, 3) for name, value in microseconds.items()}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length that spans (start, end) cover together, however they overlap."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
