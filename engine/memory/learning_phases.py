"""The phases that learning tokens adds: a gradient by the prompts' context, and from there by the tokens' rows."""

import torch

from engine.guidance.move import Unguided
from engine.memory.case import Case, context_of, latents_of, run_together
from engine.memory.recompute import checkpointed
from engine.memory.subject import Subject
from engine.priors import Context
from engine.settings import Sampling, TokenLearning
from engine.tokens.attached import attached
from engine.tokens.augment import random_views
from engine.tokens.early import EARLY_STEPS
from engine.tokens.gradient import context_gradient, rows_gradient, shown_of, token_domain
from engine.tokens.table import TokenTable, encoder_widths, placeholders
from engine.tokens.trajectories import Trajectories
from engine.types import ImageKey


def cat(subject: Subject, case: Case) -> object:
    """A token's gradient back to the prompts' context: through the classifier, the decoder and one step.

    The published last step runs both branches of CFG with a graph, an early one the conditional branch alone.
    """
    prior, learning = subject.prior, subject.learning or TokenLearning.paper()
    drawing = [part.module for part in prior.components() if part.role in ("denoiser", "decoder")]
    with checkpointed(drawing if case.checkpoint else ()):
        held = context_of(subject, case.images), latents_of(subject, case.images)
        images = run_together(subject, case)
        context = held[0][:images]
        targets = torch.zeros(images, dtype=torch.int64, device=prior.device)
        trajectories = _trajectories(subject, learning, context)
        domain = token_domain(subject.classifier, "uniform") if learning.domain_weight else None
        views = random_views(images, torch.Generator()) if learning.augment else None
        found = context_gradient(
            subject.classifier,
            shown_of(trajectories, 0, views),
            context,
            targets,
            learning,
            domain,
            case.part,
            1.0,
            case.staged,
        )
        return held, found


def _trajectories(subject: Subject, learning: TokenLearning, context: Context) -> Trajectories:
    """Images that wait at the step of a gradient, the first or the last of a short schedule here.

    The early steps of a gradient are all of a schedule here.
    """
    if learning.gradient == "early":
        steps, at = EARLY_STEPS, range(EARLY_STEPS)
    else:
        number = 1 if learning.gradient == "last" else 0
        steps, at = 2, range(number, number + 1)  # some schedules have no single step
    keys = [ImageKey(0, number) for number in range(len(context))]
    sampling = Sampling(steps=steps, cfg=subject.cfg)
    found = Trajectories(
        subject.prior,
        keys,
        context,
        sampling,
        0,
        lambda _: Unguided(),
        at=at,
        through=learning.gradient == "early",
    )
    if not found.complete:
        found.kept_null[0] = torch.empty_like(found.z)  # left over from sampling
    return found


def rows(subject: Subject, case: Case) -> object:
    """The gradient that goes on from the prompts' context to the tokens' rows, no two images of one prompt."""
    prior, held = subject.prior, context_of(subject, case.images)
    table = _table(subject)
    with attached(prior, table) as speaking:
        prompts = [*table.names] * case.part  # of one token, as the subject's context is
        by_context = torch.empty_like(held[: case.part].packed())
        return held, rows_gradient(speaking, prompts, by_context, table.rows, 1.0)


def _table(subject: Subject) -> TokenTable:
    """A table of one token without values."""
    widths, classifier = encoder_widths(subject.prior), subject.classifier
    width = sum(widths.values())
    return TokenTable(
        rows=torch.empty(1, width, device=subject.prior.device).requires_grad_(),
        encoders=widths,
        classes=(0,),
        labels=classifier.labels[:1],
        names=placeholders(classifier.labels[:1]),
        prior=subject.prior.fingerprint,
        classifier=classifier.fingerprint,
    )
