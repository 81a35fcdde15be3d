"""From a classifier and class names to a file of class alignment tokens.

Learning is saved after each epoch in `<out>.progress`, so that a run that is cut goes on where it stopped and ends at
the same bytes as an undisturbed one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from engine.classifiers.base import Classifier
from engine.datasets.run_record import differences
from engine.errors import ConfigError, OutputError
from engine.files import make_folder, write_whole
from engine.memory.apply import applied
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.models.prior import Prior
from engine.runners.job import Job, prepare
from engine.runners.start_word import best_word, looked_at, trial_images
from engine.runners.token_source import TokenSource
from engine.sampling.ddim import OnStep
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.tokens.adam import adam_8bit
from engine.tokens.optimise import learn
from engine.tokens.state import ON_DEVICE, Outcome, TokenEpoch, TokenState, initial_rows
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

JOINT = "joint."
"""What the names of a shared optimiser's tensors begin with in a progress file."""
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
    memory: str | int | Plan = AUTO,
    attention: str = AUTO_ATTENTION,
    on_trial: OnStep | None = None,
) -> TokenTable:
    """Learn one token for each class, in the images that `generate` would make with the same settings.

    Arguments are as `generate` takes them. out: a .safetensors file; if it holds the finished tokens of the same run,
    they are returned as they are, and an interrupted run is continued. Images of learning and of generation share no
    seed. on_step: called after each denoising step of a batch; on_trial: the same in the trial of words that comes
    first (`trial_images` of each class that is `looked_at`). memory, attention: as for `generate`; but for rounding it
    changes no token. A plan must have room for learning, as one of `plan(..., tokens=learning)` has. Raises
    OutputError where `out` belongs to a run with other settings, GuidanceError where gradients are NaN or infinite too
    often, MissingExtraError where the optimizer's package is absent, and what `generate` raises for its arguments.
    """
    path = _checked_path(out)
    if learning.optimizer == "adam8bit":
        adam_8bit()
    sampling = replace(sampling, steps=learning.steps or sampling.steps)
    job = prepare(
        classifier,
        prior,
        classes,
        learning.images_per_epoch,
        None,
        alignment,
        sampling,
        seed,
        memory,
        learning=learning,
        attention=attention,
    )
    run = _describe(job, learning)
    if path is not None and path.exists():
        table = read_tokens(path)
        _check_same_run(path, table.run, run)
        return table
    progress = path.with_name(f"{path.name}.progress") if path is not None else None
    if progress is not None and progress.exists():
        state = _resumed(progress, run, job.prior.device)
    else:
        if progress is not None:
            make_folder(
                progress.parent
            )  # refuses now what it would refuse after the trial of words
        state = _begun(job, learning, on_trial)

    def keep() -> None:
        if progress is not None:
            write_whole(progress, _packed(state, run))

    keep()
    table = _table(job, state, run, every_class=True)
    with attached(job.prior, table) as speaking, applied(job.plan, speaking) as phase:
        source = TokenSource(job, speaking, learning, phase, on_step)
        for epochs in learn(state, source, learning, job.sampling.batch):
            keep()
            for epoch in epochs:
                if on_progress is not None:
                    on_progress(epoch)
    table = _table(job, state, run)
    if path is not None and progress is not None:
        save_tokens(table, path)
        progress.unlink()
    return table


def _begun(job: Job, learning: TokenLearning, on_trial: OnStep | None) -> TokenState:
    """Where learning begins; what the trial of words took is in the count of the classes that it looked at."""
    init = best_word(job, learning.styles, on_trial) if learning.init == "words" else learning.init
    rows = initial_rows(job.prior, job.classes, job.classifier.labels, init, job.seed)
    state = TokenState.at_start(job.classes, rows, learning.optimizer, init)
    of_image = job.sampling.steps * (1 if job.sampling.cfg == 1 else 2)
    state.unet_forward[list(looked_at(range(len(state.classes))))] += of_image * trial_images(
        learning
    )
    return state


def _table(
    job: Job, state: TokenState, run: Mapping[str, Any], every_class: bool = False
) -> TokenTable:
    """The tokens that were learned; with `every_class` also those of classes that turned out to need none."""
    names = placeholders(job.classifier.labels)
    kept = [
        number
        for number in range(len(state.classes))
        if every_class or state.outcome[number] not in (Outcome.PASSES_WITHOUT, Outcome.NO_BETTER)
    ]
    classes = [state.classes[number] for number in kept]
    reports = [state.report(number) for number in range(len(state.classes))]
    training = {
        report.class_index: TokenTraining(
            outcome=report.outcome.name.lower().replace("_", " "),
            epochs=report.epoch,
            accuracy=report.accuracy,
            loss=report.loss,
            finished=report.finished,
            start=state.word,
            moved=not torch.equal(state.rows.detach()[number], state.start[number]),
            unet_forward=report.unet_forward,
            unet_backward=report.unet_backward,
        )
        for number, report in enumerate(reports)
    }
    return TokenTable(
        rows=state.rows if every_class else state.rows.detach()[kept].cpu(),
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
        name: fact
        for name, fact in job.describe().items()
        if name not in ("images_per_class", "tokens", "runtime")
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
    differing = differences(there, asked)
    if differing:
        raise OutputError(
            f"{path} holds a run with other settings: {'; '.join(differing)}. Expected the same settings to continue "
            "it: use them, or choose another file."
        )


def _packed(state: TokenState, run: Mapping[str, Any]) -> bytes:
    """A state as the bytes of a safetensors file."""
    tensors = {
        entry.name: getattr(state, entry.name).detach().contiguous()
        for entry in fields(state)
        if entry.name not in ("classes", "word", "joint")
    }
    tensors |= {f"{JOINT}{name}": tensor for name, tensor in state.joint.items()}
    facts = json.dumps({"classes": state.classes, "word": state.word, "run": run}, sort_keys=True)
    return save(tensors, metadata={METADATA: facts})


def _resumed(path: Path, run: Mapping[str, Any], device: torch.device) -> TokenState:
    """The state that `_packed` wrote, its rows and their moments on a device.

    Raises OutputError for one of another run, TokenFileError for a damaged one.
    """
    tensors, facts = read_tensors(path)
    _check_same_run(path, facts.get("run", {}), run)
    joint = {
        name.removeprefix(JOINT): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(JOINT)
    }
    tensors |= {name: tensors[name].to(device) for name in ON_DEVICE}
    rows = tensors.pop("rows").requires_grad_()
    return TokenState(
        classes=tuple(facts["classes"]), word=facts["word"], rows=rows, joint=joint, **tensors
    )
