"""From a classifier and class names to a file of class alignment tokens.

Learning is saved after each epoch in `<out>.progress`, so that a run that is cut goes on where it stopped and ends at
the same bytes as an undisturbed one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import ConfigError
from engine.events import SILENT, EpochEnded, Events
from engine.files import make_folder, write_whole
from engine.memory.apply import applied
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.methods.ddis import prepare
from engine.methods.drawing import Drawing
from engine.methods.models import Models
from engine.request import Method, Request
from engine.runners.asking import AnyClassifier, AnyPrior, asked
from engine.runners.start_word import best_word, looked_at, trial_images
from engine.runners.token_record import check_same_run, described, packed, resumed, table_of
from engine.runners.token_source import TokenSource
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.settings.methods import DrawingSettings
from engine.tokens.adam import adam_8bit
from engine.tokens.attached import attached
from engine.tokens.files import read_tokens, save_tokens
from engine.tokens.optimise import learn
from engine.tokens.state import TokenEpoch, TokenState, initial_rows
from engine.tokens.table import TokenTable

EPOCHS = "epochs"
"""The task that counts them, of all classes."""


def learn_tokens(
    classifier: AnyClassifier | Request,
    prior: AnyPrior = "embedded",
    classes: Sequence[str] | None = None,
    learning: TokenLearning = TokenLearning(),
    *,
    seed: int = 0,
    method: str | Method = "ddis",
    alignment: Alignment = Alignment(),
    sampling: Sampling = Sampling(),
    device: str | None = None,
    memory: str | int | Plan = AUTO,
    attention: str = AUTO_ATTENTION,
    out: str | Path | None = None,
    events: Events = SILENT,
) -> TokenTable:
    """Learn one token for each class, in the images that `generate` would make with the same settings.

    Images of learning and of generation share no seed. Arguments that are not listed are as `generate` takes them.

    Args:
        learning: how tokens are learned; it says how many images an epoch has, and may have its own number of steps.
        method: "ddis"; "plain" to learn without guidance; or the settings of one.
        memory: as for `generate`: another budget may round otherwise, and so learn slightly other tokens. A plan must
            have room for learning, as one of `plan(..., tokens=learning)` has.
        out: a .safetensors file. If it holds the finished tokens of the same run, they are returned as they are, and
            an interrupted run is resumed.
        events: where the run reports: steps, and each epoch of each class once it is saved.

    Raises:
        OutputError: `out` belongs to a run with other settings.
        GuidanceError: gradients are NaN or infinite too often.
        MissingExtraError: the optimizer's package is absent.
        EngineError: another of its children, as `generate` raises it.
    """
    path = _checked_path(out)
    if learning.optimizer == "adam8bit":
        adam_8bit()
    wanted = asked(
        classifier,
        prior,
        classes,
        seed=seed,
        method=method,
        alignment=alignment,
        sampling=sampling,
        device=device,
        memory=memory,
        attention=attention,
    )
    request = learning_request(wanted.request, learning)
    drawing = prepare(
        request, Models(request, wanted.execution, wanted.given), wanted.execution, learning
    )
    run = described(drawing, learning)
    if path is not None and path.exists():
        table = read_tokens(path)
        check_same_run(path, table.run, run)
        return table
    progress = path.with_name(f"{path.name}.progress") if path is not None else None
    if progress is not None and progress.exists():
        state = resumed(progress, run, drawing.prior.device)
    else:
        if progress is not None:
            make_folder(progress.parent)  # refuses now what it would after the trial of words
        state = _begun(drawing, learning, events)

    def keep() -> None:
        if progress is not None:
            write_whole(progress, packed(state, run))

    keep()
    table = table_of(drawing, state, run, every_class=True)
    drawing.parts.events = events
    with (
        attached(drawing.prior, table) as speaking,
        applied(drawing.plan, speaking) as phase,
        events.task(EPOCHS, most_epochs(learning) * len(drawing.classes), int(state.epochs.sum())),
    ):
        source = TokenSource(drawing, speaking, learning, phase, events)
        for epochs in learn(state, source, learning, drawing.sampling.batch):
            keep()
            for epoch in epochs:
                events.emit(_ended(epoch, drawing))
    table = table_of(drawing, state, run)
    if path is not None and progress is not None:
        save_tokens(table, path)
        progress.unlink()
    return table


def learning_request(request: Request, learning: TokenLearning) -> Request:
    """The request for an epoch's images. Raises ConfigError for one of which no token can be learned."""
    settings = request.method
    if not isinstance(settings, DrawingSettings):
        raise ConfigError(
            f"tokens are to be learned with method {settings.name!r}, expected one that draws with a prior: choose "
            "'ddis' or 'plain'."
        )
    if settings.tokens is not None or request.runtime != "torch":
        raise ConfigError(
            f"tokens are to be learned with tokens {settings.tokens!r} and runtime {request.runtime!r}, expected no "
            "tokens and 'torch': leave these settings out."
        )
    sampling = replace(settings.sampling, steps=learning.steps or settings.sampling.steps)
    return replace(
        request,
        method=replace(settings, sampling=sampling),
        images_per_class=learning.images_per_epoch,
    )


def most_epochs(learning: TokenLearning) -> int:
    """How many epochs of a class are reported at most, with that of the plain prompt and that of the check."""
    return learning.epochs + learning.skip_passing + (learning.check_images > 0)


def _begun(drawing: Drawing, learning: TokenLearning, events: Events) -> TokenState:
    """Where learning begins; what the trial of words took is in the count of the classes that it looked at."""
    init = (
        best_word(drawing, learning.styles, events) if learning.init == "words" else learning.init
    )
    rows = initial_rows(
        drawing.prior, drawing.classes, drawing.classifier.labels, init, drawing.seed
    )
    state = TokenState.at_start(drawing.classes, rows, learning.optimizer, init)
    of_image = drawing.sampling.steps * (1 if drawing.sampling.cfg == 1 else 2)
    state.unet_forward[list(looked_at(range(len(state.classes))))] += of_image * trial_images(
        learning
    )
    return state


def _ended(epoch: TokenEpoch, drawing: Drawing) -> EpochEnded:
    return EpochEnded(
        task=EPOCHS,
        class_index=epoch.class_index,
        label=drawing.classifier.labels[epoch.class_index],
        epoch=epoch.epoch,
        accuracy=epoch.accuracy,
        loss=epoch.loss,
    )


def _checked_path(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    if Path(out).suffix != ".safetensors":
        raise ConfigError(
            f"the token file is to be {str(out)!r}, expected a name that ends in .safetensors: add the ending."
        )
    return Path(out)
