"""Learn an adapter for the prior: with it, the prior draws as guidance would, or draws the classes more faithfully.

The guided trajectories of each group, and the adapter after each epoch, are kept in `<out>.progress`, so that an
interrupted run resumes where it stopped and ends with the same bytes as an undisturbed one.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, OutputError, TokenFileError, check_type
from engine.events import SILENT, Events
from engine.files import write_whole
from engine.locks import locked_file
from engine.lora.adapter import adapting, as_diffusers
from engine.lora.assembled import lessons_of, prompts_context
from engine.lora.budget import learning_parts
from engine.lora.progress import Progress
from engine.lora.recording import TRAJECTORIES, check_target, recorded
from engine.lora.training import Learner
from engine.memory.apply import applied
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.memory.recompute import checkpointed
from engine.methods.ddis import prepare
from engine.methods.drawing import Drawing
from engine.networks.sealed import sealed
from engine.priors.lora import FORMAT, check_peft
from engine.request import Method, Request
from engine.runners.asking import AnyClassifier, AnyPrior, AnyTokens, Asked, asked
from engine.runners.local import check_models, made_by
from engine.runners.token_record import check_same_facts, learning_facts
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.settings.lora import LoraLearning
from engine.settings.methods import DrawingSettings
from engine.settings.plain import to_plain
from engine.tokens.files import read_tensors

LEARNING = "adapter"
"""The task whose updates are reported."""


@dataclass(frozen=True)
class LearnedLora:
    """A learned adapter.

    images: how many images it learned from. updates: how many updates it took. error_before, error_after: the error of
    the prior alone and of the prior with the adapter. With objective "guidance" it is the mean squared difference
    between the denoiser's clean latents and those of guided sampling, in units of noise / signal, on a part of what the
    adapter learned from. With objective "class" it is the classifier's cross-entropy on the clean images that early
    steps predict, from noise that no update has used.
    """

    file: Path
    images: int
    updates: int
    error_before: float
    error_after: float


def learn_lora(
    classifier: AnyClassifier | Request,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    images_per_class: int = 8,
    learning: LoraLearning = LoraLearning(),
    *,
    out: str | Path,
    seed: int = 0,
    method: str | Method = "ddis",
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    tokens: AnyTokens | None = None,
    device: str | None = None,
    memory: str | int | Plan = AUTO,
    attention: str = AUTO_ATTENTION,
    expected: Mapping[str, Any] | None = None,
    events: Events = SILENT,
) -> LearnedLora:
    """Teach a LoRA of the prior's denoiser what guidance and CFG do, or what the classifier recognises as its classes.

    Load it with `load_prior(..., lora=out)` or with a pipeline's `load_lora_weights`. With objective "guidance" it
    learns from the images that `generate` would make; then sample with a CFG of 1 and method "plain", which costs one
    evaluation of the denoiser per step. With "class" it takes the place of tokens (CAT); then sample with the same
    settings as without it. Arguments that are not listed are those of `generate`.

    Args:
        images_per_class: number of images of each class whose trajectories are learned from; a few hundred in all are
            enough. With objective "class", number of images of each class in an epoch; each epoch draws new ones.
        learning: how the adapter is learned.
        out: a .safetensors file. If it already holds the adapter of the same run, that adapter is returned. An
            interrupted run is resumed.
        memory: as for `generate`. With a plan, learning recomputes activations, and takes as many images at once as
            fit when tokens are learned, which needs more memory.
        expected: identities that the models must have, as a run.json holds them under "models".
        tokens: class tokens to guide with; the adapter also learns their effect, so its prompts need none.

    Raises:
        ConfigError: objective is "guidance" and guidance moves noisy latents, or the method has no prior.
        OutputError: `out` belongs to a run with other settings.
        MissingExtraError: peft is not installed.
        GuidanceError: too many gradients are NaN or infinite.
        EngineError: any other error that `generate` raises.
    """
    check_type("out", out, str | Path, "the path of a file")
    check_type("events", events, Events, "Events, such as Events(print)")
    path = Path(out).expanduser()
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"the adapter is to be {str(out)!r}, expected a name that ends in .safetensors: add the ending."
        )
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
        device=device,
        memory=memory,
        attention=attention,
    )
    settings = wanted.request.method
    if not isinstance(settings, DrawingSettings):
        raise ConfigError(
            f"an adapter is to be learned of method {settings.name!r}, expected one that draws with a "
            "prior: choose 'ddis' or 'plain'."
        )
    by_class = learning.objective == "class"
    if by_class and settings.tokens is not None:
        raise ConfigError(
            "tokens are given and the objective is 'class', expected none: the adapter takes their place. Leave "
            "them out, or set the objective to 'guidance'."
        )
    if not by_class:
        check_target(settings.alignment)
    check_peft()
    drawing = prepare(
        wanted.request,
        wanted.models,
        replace(wanted.execution, graphs=False),
        TokenLearning(images_per_epoch=learning.batch) if by_class else None,
    )
    if expected is not None:
        check_models(expected, drawing.identities())
    run = {**made_by(drawing), "learning": to_plain(learning)}
    progress = Progress(path.with_name(f"{path.name}.progress"))
    if path.exists() and not progress.folder.exists():
        return _found(path, run)
    with adapting(drawing.prior, learning.rank, drawing.seed):
        pass  # refuse an unsuitable prior now, not after all trajectories have been made
    with locked_file(path):
        if path.exists():  # of another process, or of a run that was killed before it cleaned up
            found = _found(path, run)
            if progress.folder.exists():
                progress.delete()
            return found
        begun = progress.record()
        if begun is None:
            progress.begin(run)
        else:
            _check_same_run(progress.folder, begun, run)
        if learning.objective == "guidance":
            _record(drawing, progress, events)
        learned = _learned(drawing, learning, progress, path, run, wanted, events)
        progress.delete()
        return learned


def _record(drawing: Drawing, progress: Progress, events: Events) -> None:
    """Sample the groups that have no stored trajectories yet."""
    groups = drawing.groups()
    lacking = [number for number in range(len(groups)) if not progress.has(number)]
    done = groups.images - sum(len(groups[number]) for number in lacking)
    with events.task(TRAJECTORIES, groups.images, done) as task:
        for number in lacking:
            progress.keep(number, recorded(drawing, groups[number], events))
            task.progress(len(groups[number]))


def _learned(
    drawing: Drawing,
    learning: LoraLearning,
    progress: Progress,
    path: Path,
    run: Mapping[str, Any],
    wanted: Asked,
    events: Events,
) -> LearnedLora:
    """Teach the adapter and write it."""
    prior, by_class = drawing.prior, learning.objective == "class"
    parts = learning_parts(drawing, learning, wanted.execution, wanted.given.plan)
    recomputed = [prior.network, prior.vae] if by_class else [prior.network]
    with applied(drawing.plan, prior) as phase:
        with phase("text"):
            context = prompts_context(drawing, learning)
        with (
            phase("cat" if by_class else "sampling"),
            adapting(prior, learning.rank, drawing.seed) as parameters,
            nullcontext() if drawing.plan is None else checkpointed(recomputed),
        ):
            lessons = lessons_of(drawing, context, learning, parts, progress, events)
            learner = Learner(parameters, learning, lessons)
            if (state := progress.state()) is not None:
                learner.resume(state)
            else:
                learner.before = learner.measured()
            updates = learner.updates_per_epoch
            done = learner.epoch * updates
            with events.task(LEARNING, learning.epochs * updates, done) as task:
                while learner.epoch < learning.epochs:
                    learner.run_epoch(lambda error: task.progress(1, f"error {error:.3f}"))
                    progress.keep_state(learner.state())
            after = learner.measured()
            tensors = as_diffusers(prior, parameters)
    images = len(drawing.classes) * drawing.request.images_per_class
    if by_class:
        images *= learning.epochs
    learned = LearnedLora(path, images, learning.epochs * updates, learner.before, after)
    figures = {name: value for name, value in vars(learned).items() if name != "file"}
    write_whole(path, sealed(tensors, {"format": FORMAT, "run": run, "learned": figures}))
    return learned


def _found(path: Path, run: Mapping[str, Any]) -> LearnedLora:
    """The adapter in an existing file. Raises OutputError if it belongs to another run or is not an adapter."""
    try:
        _, metadata = read_tensors(path)
    except TokenFileError:
        metadata = {}
    if metadata.get("format") != FORMAT:
        raise OutputError(
            f"{path} is there and was not written by `ddis learn-lora`, or is damaged; expected a new name, or the "
            "adapter of the same run: choose another file, or delete this one."
        )
    _check_same_run(path, metadata["run"], run)
    return LearnedLora(file=path, **metadata["learned"])


def _check_same_run(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise OutputError, naming each fact that differs, where a file or folder belongs to another run."""
    facts = [learning_facts(run, LoraLearning) for run in (there, here)]
    check_same_facts(path, *facts)
