"""From a classifier and class names to images: `generate`, and `generate_again` to repeat a recorded run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.datasets.run_record import read_run
from engine.events import SILENT, Events
from engine.facts import request_of
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.request import Execution, Method, Request
from engine.runners.asking import AnyClassifier, AnyPrior, AnyTokens, asked
from engine.runners.registry import runner_for
from engine.settings import AUTO_ATTENTION, Alignment, Sampling
from engine.settings.cluster import Cluster
from engine.types import Sample


def generate(
    classifier: AnyClassifier | Request,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    *,
    seed: int = 0,
    method: str | Method = "ddis",
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    tokens: AnyTokens | None = None,
    student: AnyClassifier | None = None,
    runtime: str = "torch",
    device: str | None = None,
    memory: str | int | Plan = AUTO,
    attention: str = AUTO_ATTENTION,
    onnx_cache: str | Path | None = None,
    graphs: bool = True,
    runner: str = "local",
    cluster: Cluster = Cluster(),
    out: str | Path | None = None,
    events: Events = SILENT,
) -> Iterator[Sample]:
    """Yield images distributed like the classifier's training set; with `out`, also write them to a data set folder.

    Models are loaded and all arguments are checked before this returns. Images are made as the iterator is read.

    Args:
        classifier: anything that `load_classifier` takes, or its result; or a `Request`, which replaces all arguments
            up to `runtime`.
        prior: anything that `load_prior` takes, or its result.
        classes: labels of the classifier to make images of; all of them if None.
        images_per_class: number of images of each class.
        seed: seed of the run; the same seed and arguments give the same images on the same kind of machine.
        method: "ddis"; "plain", the prior without guidance; "deepinversion", "plugin-inversion" or
            "natural-inversion", which need no prior; or the settings of one, such as `DeepInversion()`.
        alignment: settings of guidance, for method "ddis".
        sampling: settings of the sampler, for methods with a prior.
        tokens: learned class tokens, or the file that holds them, for methods with a prior.
        student: anything that `load_classifier` takes, or its result, for adaptive DeepInversion.
        runtime: "torch", or "onnx" to sample and guide in ONNX Runtime, without autograd and without a plan.
        device: "cpu", "cuda", "cuda:1"; by default the GPU if there is one. Models passed as objects stay on
            their device.
        memory: how much memory the run may use: '12GB', '11.5GiB', a number of bytes, 'auto' for all that is free,
            or a plan. It decides how many images go through the networks at once, and so how sums are rounded. Without
            guidance the images are the same for any budget; with guidance they may be others of the same distribution
            (`engine.methods.kind`).
        attention: "sdpa", "xformers" (CUDA, extra 'gpu'), or "auto", which picks xformers if it is no slower.
        onnx_cache: folder for the graphs of runtime "onnx"; the first run with these models and settings exports them.
        graphs: whether denoiser and guidance may be replayed from CUDA graphs, if the plan has room for them. It does
            not change the images.
        runner: what carries out the run: "local" for this process, or another runner of `engine.runners.registry`.
        cluster: workers that make a data set in parts; `ddis finish` then completes it. Models must be named, not
            passed as objects.
        out: folder of the data set. If it holds part of the same run, the run is resumed and only the missing images
            are yielded.
        events: receives the run's progress; also used to cancel the run.

    Raises:
        EngineError: the caller made a mistake; the child class says which kind.

    Warns:
        MemoryWarning: memory ran out, and the run continues with fewer images at once.
    """
    wanted = asked(
        classifier,
        prior,
        classes,
        images_per_class,
        seed=seed,
        method=method,
        alignment=alignment,
        sampling=sampling,
        tokens=tokens,
        student=student,
        runtime=runtime,
        device=device,
        memory=memory,
        attention=attention,
        onnx_cache=onnx_cache,
        graphs=graphs,
        runner=runner,
        cluster=cluster,
    )
    return runner_for(wanted.execution, out, events, wanted.given).run(wanted.request)


def generate_again(
    record: str | Path,
    out: str | Path | None = None,
    execution: Execution = Execution(),
    events: Events = SILENT,
) -> Iterator[Sample]:
    """Yield the images of a run.json again: the same bytes, given the same models and kind of machine.

    record: a run.json, or the folder that holds it. The other arguments are those of `generate`. Raises ModelError if a
    model is not the one that the record names, ConfigError if the record is that of a selection or is incomplete.
    """
    found = read_run(Path(record))
    request, models = request_of(found.made, record)
    return runner_for(execution, out, events, expected=models).run(request)
