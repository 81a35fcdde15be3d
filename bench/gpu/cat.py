"""Learning a class token: a gradient's time and memory, ours and the published one, and what the optimiser takes."""

from functools import partial
from typing import Any

import torch

from engine.memory.case import Case
from engine.memory.phases import run_case
from engine.memory.subject import Subject
from engine.settings import Alignment, TokenLearning
from engine.tokens.adam import row_optimizer
from engine.tokens.state import TokenState
from gpu.card import Card
from gpu.memory import networks_of
from gpu.record import Record

TOKENS = 28
CASES = ((1, False), (1, True), (4, False), (4, True))
"""Images in a gradient, and whether its activations are recomputed."""


def measure(record: Record, card: Card) -> None:
    for kind in ("adam", "adam8bit"):
        record.attempt(f"optimiser {kind}", partial(_optimiser, card, kind))
    prior, classifier = card.prior(), card.classifier()
    networks = networks_of(prior, classifier)
    for name, learning in (("ours", TokenLearning()), ("published", None)):
        subject = Subject(
            prior=prior,
            classifier=classifier,
            alignment=Alignment(),
            cfg=4.0,
            learning=learning,
        )

        def gradient(case: Case, subject: Subject = subject) -> dict[str, Any]:
            seconds = card.seconds(lambda: run_case(subject, case), 3, 1)
            with card.peak(*networks) as found:
                run_case(subject, case)
            return {"s": seconds, "reserved_bytes": found.peak_bytes}

        for batch, checkpointed in card.pick(CASES, CASES[:2]):
            how = ", checkpointed" if checkpointed else ""
            work = partial(gradient, Case("cat", batch, batch, checkpointed))
            record.attempt(f"gradient {name}, batch {batch}{how}", work)


def _optimiser(card: Card, kind: str) -> dict[str, Any]:
    """An update of the rows of TOKENS tokens, as wide as Stable Diffusion 2.1's, and the bytes of its moments."""
    rows, grad = (torch.randn(TOKENS, 1024, device=card.device) for _ in range(2))
    state = TokenState.at_start(range(TOKENS), rows, kind)
    optimiser = row_optimizer(kind, state, range(TOKENS), 0.01)
    numbers = list(range(TOKENS))
    seconds = card.seconds(lambda: optimiser.step(numbers, grad), 20)
    moments = [*state.joint.values(), state.momentum, state.square]
    return {
        "s": seconds,
        "moments_bytes": sum(values.nbytes for values in moments),
        "device": str(state.rows.device),
    }
