"""From a classifier and class names to images: `generate`, and a record of it carried out again."""

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
    """Yield images distributed like the classifier's training set, and with `out` write them as a data set folder.

    The models are loaded and every argument is checked before this returns. Images are made as the iterator is read.

    Args:
        classifier: what `load_classifier` takes or gave; or a whole request, instead of all up to `runtime`.
        prior: what `load_prior` takes or gave.
        classes: some of the classifier's labels; all of them if None.
        images_per_class: images of each class.
        seed: of the run; with all else equal, and on the same kind of machine, it gives the same images.
        method: "ddis"; "plain", the prior without guidance; "deepinversion", "plugin-inversion" or
            "natural-inversion", which need no prior; or the settings of one, such as `DeepInversion()`.
        alignment: settings of guidance, for "ddis".
        sampling: settings of the sampler, for methods with a prior.
        tokens: learned class tokens or their file, for methods with a prior.
        student: what `load_classifier` takes or gave, for adaptive DeepInversion.
        runtime: "torch", or "onnx" to sample and guide in ONNX Runtime, without autograd and without a plan.
        device: "cpu", "cuda", "cuda:1"; by default the GPU where there is one. Models that are handed over stay where
            they are.
        memory: what the run may take, as '12GB', '11.5GiB', bytes or 'auto' for all that is free, or a plan. It
            decides how many images go through the networks at once, and so how sums are rounded: without guidance the
            same images come out, with guidance perhaps others of the same distribution (`engine.methods.kind`).
        attention: "sdpa", "xformers" (CUDA, extra 'gpu'), or "auto", which is xformers where it is no slower.
        onnx_cache: folder of the graphs of runtime "onnx", which the first run with these models and settings exports.
        graphs: on CUDA, whether denoiser and guidance may be replayed from CUDA graphs, where the plan has room for
            them; it changes no image.
        runner: who carries the run out: "local", this process, or another of `engine.runners.registry`.
        cluster: workers that make a data set in parts, which `ddis finish` completes; models are then named, not
            handed over.
        out: folder of the data set; one that holds a part of the same run is resumed, and only what was missing is
            yielded.
        events: where the run reports, and by which it is cancelled.

    Raises:
        EngineError: one of its children for each mistake that is the caller's.

    Warns:
        MemoryWarning: memory ran out and the run goes on with fewer images at once.
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
    """Yield the images of a run.json once more, with the same models on the same kind of machine the same bytes.

    record: a run.json, or the folder that holds it. The rest is as for `generate`. Raises ModelError where a model is
    not the one that the record names, ConfigError for the record of a selection and for one that does not say enough.
    """
    found = read_run(Path(record))
    request, models = request_of(found.made, record)
    return runner_for(execution, out, events, expected=models).run(request)
