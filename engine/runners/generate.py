"""From a classifier and class names to images: `generate`, and `generate_again` to repeat a recorded run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.datasets.run_record import read_run
from engine.errors import check_type
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

    Models are loaded and all arguments checked before this function returns. Images are made as the iterator is read.

    Args:
        classifier: anything that `load_classifier` accepts, or its result. Alternatively a complete `Request`, which
            replaces every argument up to and including `runtime`.
        prior: anything that `load_prior` accepts, or its result.
        classes: a subset of the classifier's labels; None for all of them.
        images_per_class: number of images of each class.
        seed: random seed of the run. The same seed and settings give the same images on the same kind of machine.
        method: "ddis"; "plain", the prior without guidance; "deepinversion", "plugin-inversion" or
            "natural-inversion", which need no prior; or the settings of a method, such as `DeepInversion()`.
        alignment: settings of guidance, for "ddis".
        sampling: settings of the sampler, for methods with a prior.
        tokens: learned class tokens or their file, for methods with a prior.
        student: as `classifier`; a second network for adaptive DeepInversion.
        runtime: "torch", or "onnx" to sample and guide in ONNX Runtime, without autograd or a memory plan.
        device: "cpu", "cuda" or "cuda:1"; by default the GPU if there is one. Models that are passed as objects stay
            on their device.
        memory: memory limit of the run, such as '12GB', '11.5GiB', a number of bytes or 'auto' for all that is free;
            or a plan. It sets how many images pass through the networks at once and thereby how sums are rounded:
            unguided images stay the same, guided ones may differ, with the same distribution (`engine.methods.kind`).
        attention: "sdpa", "xformers" (CUDA, extra 'gpu'), or "auto", which picks xformers where it has a
            kernel for the device.
        onnx_cache: folder for the graphs of runtime "onnx", exported by the first run with these models and settings.
        graphs: whether denoiser and guidance may be replayed from CUDA graphs if the plan has room for them. The
            images are the same either way.
        runner: what carries out the run: "local", this process, or another entry of `engine.runners.registry`.
        cluster: workers that make the data set in parts, to be completed by `ddis finish`. Models must then be given
            by name, not as objects.
        out: the data set folder. An interrupted run in it is resumed, and only the missing images are yielded.
        events: receives progress reports and can cancel the run.

    Raises:
        EngineError: a subclass for every mistake of the caller.

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
    """Repeat the run that a run.json records and yield its images.

    On the same kind of machine, every image has the same bytes as in the first run.

    Args:
        record: the run.json or the folder that contains it. Relative paths in it, of a checkpoint or a prior, are
            relative to the current folder.
        out: as for `generate`.
        execution: how the run is carried out: memory, device, attention, runner.
        events: as for `generate`.

    Raises:
        ModelError: a model differs from the one on record.
        ConfigError: the record is of a selection, or incomplete.
    """
    check_type("record", record, str | Path, "the path of a run.json or of its folder")
    found = read_run(Path(record).expanduser())
    request, models = request_of(found.made, record)
    return runner_for(execution, out, events, expected=models).run(request)
