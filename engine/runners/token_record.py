"""The record of a run that learns tokens, and the file in which it keeps what it has learned so far."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from engine.datasets.run_record import differences
from engine.errors import OutputError, TokenFileError
from engine.facts import facts_of, filled, with_names_of
from engine.methods.drawing import Drawing
from engine.networks.sealed import sealed
from engine.runners.local import made_by
from engine.settings import TokenLearning
from engine.settings.plain import to_plain
from engine.tokens.files import OLD_NAMES, read_tensors, read_tokens
from engine.tokens.state import NOT_BY_ROW, ON_DEVICE, Outcome, TokenState
from engine.tokens.table import (
    INSTEAD,
    TEMPLATE,
    TokenTable,
    TokenTraining,
    encoder_widths,
    placeholders,
)

JOINT = "joint."
"""What the names of a shared optimiser's tensors begin with in a progress file."""


def described(drawing: Drawing, learning: TokenLearning) -> dict[str, Any]:
    """The request, the identities of its models and the settings of learning, as JSON values."""
    return {**made_by(drawing), "learning": to_plain(learning)}


OF_BEFORE: dict[type, dict[str, Any]] = {TokenLearning: {"check_doublings": 0}}
"""What was done before there was a setting for it, whose default does something else."""


def learning_facts(run: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The facts of a run that learns by settings of a kind, whatever version wrote it down."""
    made = {key: value for key, value in run.items() if key != "learning"}
    learning = filled(kind, OF_BEFORE.get(kind, {}) | run.get("learning", {}))
    if kind is TokenLearning and not learning.get("check_images"):
        learning |= OF_BEFORE[kind]  # nothing is checked
    return {**facts_of(made), "learning": learning}


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """What tokens depend on, of a run that `described` or version 0.1 wrote down."""
    unread = ("images_per_class", "tokens", "runtime")
    facts = learning_facts(run, TokenLearning)
    return {key: value for key, value in facts.items() if key not in unread}


def check_same_run(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise OutputError, naming each setting that differs, where a file belongs to another run."""
    check_same_facts(path, _facts(there), _facts(here))


def check_same_facts(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise OutputError, naming each fact that differs, where a file or folder belongs to another run."""
    differing = differences(there, with_names_of(there, here))
    if differing:
        raise OutputError(
            f"{path} holds a run with other settings: {'; '.join(differing)}. Expected the same settings to continue "
            "it: use them, or choose another file."
        )


def learned(path: Path, run: Mapping[str, Any]) -> TokenTable | None:
    """The finished tokens of a run; None where there is no file. Raises OutputError for those of another run."""
    if not path.exists():
        return None
    table = read_tokens(path)
    check_same_run(path, table.run, run)
    return table


def progress_of(out: Path) -> Path:
    """Where one process keeps what it has learned of a file so far."""
    return out.with_name(f"{out.name}.progress")


def packed(state: TokenState, run: Mapping[str, Any]) -> bytes:
    """A state as the bytes of a safetensors file."""
    tensors = {
        entry.name: getattr(state, entry.name).detach().contiguous()
        for entry in fields(state)
        if entry.name not in NOT_BY_ROW or entry.name == "scale"
    }
    tensors |= {f"{JOINT}{name}": tensor for name, tensor in state.joint.items()}
    metadata = {"classes": state.classes, "word": state.word, "kinds": state.kinds, "run": run}
    return sealed(tensors, metadata)


def resumed(path: Path, run: Mapping[str, Any], device: torch.device) -> TokenState:
    """The state that `packed` wrote, its rows and their moments on a device.

    Raises OutputError for one of another run, TokenFileError for a damaged one.
    """
    try:
        tensors, metadata = read_tensors(path)
    except TokenFileError as error:
        wrong = str(error).removeprefix(f"{path} ").partition(", expected")[0]
        raise TokenFileError(
            f"{path} is damaged (it {wrong}), expected what was learned so far: delete it and run the same command "
            "again, which learns that again."
        ) from error
    check_same_run(path, metadata.get("run", {}), run)
    joint = {
        name.removeprefix(JOINT): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(JOINT)
    }
    tensors = {OLD_NAMES.get(name, name): value for name, value in tensors.items()}
    tensors.setdefault(
        "variety", tensors["finished"] + torch.nan
    )  # a state from before it was measured
    tensors |= {name: tensors[name].to(device) for name in ON_DEVICE}
    rows = tensors.pop("rows").requires_grad_()
    return TokenState(
        classes=tuple(metadata["classes"]),
        word=metadata["word"],
        rows=rows,
        joint=joint,
        kinds={int(number): found for number, found in metadata.get("kinds", {}).items()},
        **tensors,
    )


def kind_in_words(kind: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """A kind of machine as a state notes it, with how many images go through each phase at once."""
    known = {
        name: value for name, value in kind.items() if name not in ("reproducible", "micro_batch")
    }
    return json.dumps({**known, "micro_batches": dict(sizes)}, sort_keys=True)


def _kinds(state: TokenState) -> tuple[list[dict[str, Any]], dict[int, tuple[int, ...]]]:
    """The kinds of machines that a state was learned on, each once, and their numbers by class.

    Where all are of one canary it is left out, which a run of one process does not try.
    """
    noted = {number: [*map(json.loads, state.kinds.get(number, []))] for number in state.classes}
    if len({kind["canary"] for kinds in noted.values() for kind in kinds} - {""}) <= 1:
        for kind in [kind for kinds in noted.values() for kind in kinds]:
            del kind["canary"]
    found: list[dict[str, Any]] = []
    for kind in [kind for kinds in noted.values() for kind in kinds]:
        if kind not in found:
            found.append(kind)
    return found, {
        number: tuple(dict.fromkeys(found.index(kind) for kind in kinds))
        for number, kinds in noted.items()
    }


def table_of(
    drawing: Drawing, state: TokenState, run: Mapping[str, Any], every_class: bool = False
) -> TokenTable:
    """The tokens that were learned; with `every_class` also those of classes that turned out to need none."""
    names = placeholders(drawing.classifier.labels)
    kept = [
        number
        for number in range(len(state.classes))
        if every_class or Outcome(int(state.outcome[number])).keeps_token
    ]
    classes = [state.classes[number] for number in kept]
    kinds, by_class = _kinds(state)
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
            denoiser_forward=report.denoiser_forward,
            denoiser_backward=report.denoiser_backward,
            kinds=by_class[report.class_index],
            variety=report.variety,
        )
        for number, report in enumerate(reports)
    }
    return TokenTable(
        rows=state.rows if every_class else state.rows.detach()[kept].cpu(),
        encoders=encoder_widths(drawing.prior),
        classes=tuple(classes),
        labels=tuple(drawing.classifier.labels[number] for number in classes),
        names=tuple(names[number] for number in classes),
        prior=drawing.prior.fingerprint,
        classifier=drawing.classifier.fingerprint,
        training=training,
        run=run,
        template=INSTEAD if run["learning"]["place"] == "instead" else TEMPLATE,
        kinds=tuple(kinds),
    )
