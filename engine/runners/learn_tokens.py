"""From a classifier and class names to a file of class alignment tokens.

Learning is saved after each epoch in `<out>.progress`, so that a run that is cut goes on where it stopped and ends at
the same bytes as an undisturbed one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import ConfigError, check_type
from engine.events import SILENT, Events
from engine.locks import locked_file
from engine.memory.budget import AUTO
from engine.memory.plan import Plan
from engine.methods.ddis import prepare
from engine.methods.models import Models
from engine.request import Method, Request
from engine.runners.asking import AnyClassifier, AnyPrior, asked
from engine.runners.registry import learn_on_cluster
from engine.runners.token_cohorts import CohortLearner, delete_unfinished, folder_of, tidy
from engine.runners.token_epochs import begin, learn_rows
from engine.runners.token_record import described, learned, progress_of, resumed, table_of
from engine.settings import AUTO_ATTENTION, Alignment, Sampling, TokenLearning
from engine.settings.cluster import Cluster
from engine.settings.methods import DrawingSettings
from engine.tokens.adam import adam_8bit
from engine.tokens.files import save_tokens
from engine.tokens.table import TokenTable


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
    share: str | None = None,
    cluster: Cluster = Cluster(),
    mixed: bool = False,
    events: Events = SILENT,
) -> TokenTable:
    """Learn one token for each class, in the images that `generate` would make with the same settings.

    Images of learning and of generation share no seed. Arguments that are not listed are as `generate` takes them.

    Args:
        learning: how tokens are learned; it says how many images an epoch has, and may have its own number of steps.
        method: "ddis"; "plain" to learn without guidance; or the settings of one.
        memory: as for `generate`: another budget may round otherwise, and so learn other tokens of like worth. A plan
            must have room for learning, as one of `plan(..., tokens=learning)` has.
        out: a .safetensors file. If it holds the finished tokens of the same run, they are returned as they are, and
            an interrupted run is resumed.
        share: one of several processes with the same `out`, such as '3/16' for the third of sixteen: it learns its
            share of the classes. The tokens of all classes that are learned by now are returned, and the process that
            learns the last of them writes `out`, with the bytes of one run.
        cluster: workers that learn the classes, each as many at once as learn side by side; models are then named, not
            handed over.
        mixed: whether machines of different kinds may learn tokens of one file.
        events: where the run reports: steps, and each epoch of each class once it is saved.

    Raises:
        OutputError: `out` belongs to a run with other settings.
        GuidanceError: gradients are NaN or infinite too often.
        MissingExtraError: the optimizer's package is absent.
        EngineError: another of its children, as `generate` raises it.
    """
    check_type(
        "learning", learning, TokenLearning, "TokenLearning, such as TokenLearning(epochs=4)"
    )
    check_type("out", out, str | Path | None, "the path of a file, or None")
    check_type("events", events, Events, "Events, such as Events(print)")
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
        cluster=cluster,
    )
    request = learning_request(wanted.request, learning)
    execution = replace(wanted.execution, share=share, mixed=mixed)
    if path is None and execution.carried_out_by != "local":
        raise ConfigError(
            "tokens that several processes learn were asked for without out, expected the file that all of them end "
            "in: name it."
        )
    if path is not None and execution.carried_out_by == "ray":
        return learn_on_cluster(request, learning, execution, wanted.given, path, events)
    drawing = prepare(request, Models(request, execution, wanted.given), execution, learning)
    run = described(drawing, learning)
    if path is not None and (table := learned(path, run)) is not None:
        tidy(path)
        return table
    if path is None:
        state = begin(drawing, learning, events)
        learn_rows(drawing, learning, run, state, None, events)
        return table_of(drawing, state, run)
    with locked_file(path, shared=share is not None):
        if (table := learned(path, run)) is not None:  # by another process since
            return table
        if share is not None or folder_of(path).exists():  # whatever shares have left
            learner = CohortLearner(drawing, learning, path, events, mixed)
            number, count = execution.share_of()
            for cohort in learner.missing():
                if cohort % count == number:
                    learner.learn(cohort)
            return learner.table()
        progress = progress_of(path)
        if progress.exists():
            state = resumed(progress, run, drawing.prior.device)
        else:
            state = begin(drawing, learning, events)
        learn_rows(drawing, learning, run, state, progress, events)
        table = table_of(drawing, state, run)
        save_tokens(table, path)
        delete_unfinished(path)
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
    if learning.side_by_side > settings.sampling.batch:
        raise ConfigError(
            f"side_by_side is {learning.side_by_side} and batch {settings.sampling.batch}, expected no more than that: "
            "memory is planned for a batch. Lower it, or raise the batch."
        )
    sampling = replace(settings.sampling, steps=learning.steps or settings.sampling.steps)
    return replace(
        request,
        method=replace(settings, sampling=sampling),
        images_per_class=learning.images_per_epoch,
    )


def _checked_path(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    if Path(out).suffix != ".safetensors":
        raise ConfigError(
            f"the token file is to be {str(out)!r}, expected a name that ends in .safetensors: add the ending."
        )
    return Path(out).expanduser()
