"""From a classifier and class names to a file of class alignment tokens.

Learning is saved after each epoch in `<out>.progress`, so that a run that is cut goes on where it stopped and ends at
the same bytes as an undisturbed one.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from engine.config import Alignment, Sampling, TokenLearning
from engine.errors import ConfigError, OutputError
from engine.files import write_whole
from engine.guidance.steer import DomainSteer
from engine.models.classifier import Classifier
from engine.models.prior import Prior
from engine.pipelines.generate import Job, prepare
from engine.prompts import class_prompt
from engine.sampling.ddim import OnStep
from engine.sampling.noise import ImageNoise
from engine.tokens.optimise import (
    LogitsOf,
    Outcome,
    TokenEpoch,
    TokenState,
    final_images,
    gradient_step,
    initial_rows,
    learn,
)
from engine.tokens.table import (
    METADATA,
    TokenTable,
    TokenTraining,
    attached,
    placeholders,
    read_tensors,
    read_tokens,
    save_tokens,
)
from engine.types import ImageKey, image_rng

OnProgress = Callable[[TokenEpoch], None]
"""Called for each class after each of its epochs, when the epoch is saved."""


def learn_tokens(
    classifier: str | Path | nn.Module | Classifier,
    prior: str | Path | Prior = "embedded",
    classes: Sequence[str] | None = None,
    learning: TokenLearning = TokenLearning(),
    alignment: Alignment | None = Alignment(),
    sampling: Sampling = Sampling(),
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
    on_step: OnStep | None = None,
) -> TokenTable:
    """Learn one token for each class, in the images that `generate` would make with the same settings.

    Arguments are as `generate` takes them. out: a .safetensors file; if it holds the finished tokens of the same run,
    they are returned as they are, and an interrupted run is continued. Images of learning and of generation share no
    seed. on_step: called after each denoising step of a batch. Raises OutputError where `out` belongs to a run with
    other settings, GuidanceError where gradients are NaN or infinite too often, and what `generate` raises for its
    arguments.
    """
    path = _checked_path(out)
    job = prepare(classifier, prior, classes, 1, None, alignment, sampling, seed)
    run = _describe(job, learning)
    if path is not None and path.exists():
        table = read_tokens(path)
        _check_same_run(path, table.run, run)
        return table
    progress = path.with_name(f"{path.name}.progress") if path is not None else None
    state = _resumed(progress, run) if progress is not None and progress.exists() else _begun(job, learning)

    def keep() -> None:
        if progress is not None:
            write_whole(progress, _packed(state, run))

    keep()
    with attached(job.prior, _table(job, state, run, every_class=True)) as speaking:
        logits_of = _logits_of(job, speaking, learning, on_step)
        for epochs in learn(state, logits_of, learning, job.sampling.batch):
            keep()
            for epoch in epochs:
                if on_progress is not None:
                    on_progress(epoch)
    table = _table(job, state, run)
    if path is not None and progress is not None:
        save_tokens(table, path)
        progress.unlink()
    return table


def _logits_of(job: Job, prior: Prior, learning: TokenLearning, on_step: OnStep | None) -> LogitsOf:
    """Bind a job's models to the learning loop: the prior speaks the tokens that are learned."""
    labels, names = job.classifier.labels, placeholders(job.classifier.labels)

    def logits_of(keys: Sequence[ImageKey], with_tokens: bool) -> Tensor:
        numbers = [key.class_index for key in keys]
        prompts = [class_prompt(labels[number], names[number] if with_tokens else "") for number in numbers]
        noise = ImageNoise(job.seed, keys, prior.latent_shape, prior.device)
        steer = job.steer(keys)
        at = None
        if with_tokens:
            at = gradient_step(learning.gradient, job.sampling.steps, image_rng(job.seed, keys[0]))
        images = final_images(prior, prompts, noise, job.sampling, steer, on_step, at)
        logits = job.classifier.logits(images)
        if isinstance(steer, DomainSteer):
            steer.check()
        return logits

    return logits_of


def _begun(job: Job, learning: TokenLearning) -> TokenState:
    labels = job.classifier.labels
    return TokenState.at_start(
        job.classes, initial_rows(job.prior, job.classes, labels, learning.init, job.seed)
    )


def _table(job: Job, state: TokenState, run: Mapping[str, Any], every_class: bool = False) -> TokenTable:
    """The tokens that were learned; with `every_class` also those of classes that turned out to need none."""
    names = placeholders(job.classifier.labels)
    kept = [
        number
        for number in range(len(state.classes))
        if every_class or state.outcome[number] != Outcome.PASSES_WITHOUT
    ]
    classes = [state.classes[number] for number in kept]
    training = {
        class_index: TokenTraining(
            outcome=Outcome(int(state.outcome[number])).name.lower().replace("_", " "),
            epochs=int(state.epochs[number]),
            accuracy=float(state.accuracy[number]),
            loss=float(state.loss[number]),
        )
        for number, class_index in enumerate(state.classes)
    }
    return TokenTable(
        rows=state.rows if every_class else state.rows.detach()[kept],
        classes=tuple(classes),
        labels=tuple(job.classifier.labels[number] for number in classes),
        names=tuple(names[number] for number in classes),
        prior=job.prior.fingerprint,
        classifier=job.classifier.fingerprint,
        training=training,
        run=run,
    )


def _describe(job: Job, learning: TokenLearning) -> dict[str, Any]:
    """Everything that the tokens depend on, as JSON values."""
    shared = {
        name: fact for name, fact in job.describe().items() if name not in ("images_per_class", "tokens")
    }
    return json.loads(json.dumps(shared | {"learning": asdict(learning)}))


def _checked_path(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    if Path(out).suffix != ".safetensors":
        raise ConfigError(
            f"the token file is to be {str(out)!r}, expected a name that ends in .safetensors: add the ending."
        )
    return Path(out)


def _check_same_run(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise OutputError, naming each setting that differs, where a file belongs to another run."""
    old, new = dict(_leaves(there)), dict(_leaves(asked))
    differing = [
        f"{name} is {old.get(name, 'not set')!r} there and {new.get(name, 'not set')!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, ...) != new.get(name, ...)
    ]
    if differing:
        raise OutputError(
            f"{path} holds a run with other settings: {'; '.join(differing)}. Expected the same settings to continue "
            "it: use them, or choose another file."
        )


def _leaves(facts: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for key, fact in facts.items():
        if isinstance(fact, Mapping):
            yield from _leaves(fact, f"{name}{key}.")
        else:
            yield f"{name}{key}", fact


def _packed(state: TokenState, run: Mapping[str, Any]) -> bytes:
    """A state as the bytes of a safetensors file."""
    tensors = {
        entry.name: getattr(state, entry.name).detach().contiguous()
        for entry in fields(state)
        if entry.name != "classes"
    }
    facts = json.dumps({"classes": state.classes, "run": run}, sort_keys=True)
    return save(tensors, metadata={METADATA: facts})


def _resumed(path: Path, run: Mapping[str, Any]) -> TokenState:
    """The state that `_packed` wrote. Raises OutputError for one of another run, TokenFileError for a damaged one."""
    tensors, facts = read_tensors(path)
    _check_same_run(path, facts.get("run", {}), run)
    rows = tensors.pop("rows").requires_grad_()
    return TokenState(classes=tuple(facts["classes"]), rows=rows, **tensors)
