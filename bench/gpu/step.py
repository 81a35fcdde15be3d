"""What guidance costs: a plain and a guided step, ours and the paper's, whole runs, and where a step's time goes."""

from functools import partial
from typing import Any

from engine import profile
from engine.runners.job import prepare
from gpu.card import Card
from gpu.record import Record
from gpu.steps import METHODS, STEPS, images_per_minute, launching, timed_step, unchecked


def measure(record: Record, card: Card) -> None:
    """Put `step <method>, batch <n>`, `run <method>, <launching>, batch <n>` and `profile <method>`."""
    prior, classifier = card.prior(), card.classifier()
    batches, steps = card.pick((1, 4, 8), (1,)), card.pick(STEPS, 2)

    def step(batch: int, method: str) -> dict[str, Any]:
        labels = classifier.labels[:1]
        job = prepare(classifier, prior, labels, batch, memory="auto", **METHODS[method])
        return timed_step(card, job)

    for batch in batches:
        for method in ("ours", "paper", "ours, full VAE"):
            record.attempt(f"step {method}, batch {batch}", partial(step, batch, method))
    for batch in batches:
        for method in ("plain", "ours", "paper"):
            for way, options in launching().items():
                run = partial(images_per_minute, card, classifier, prior, batch, steps)
                work = partial(run, **METHODS[method], **options)
                record.attempt(f"run {method}, {way}, batch {batch}", work)
    for method in ("ours", "paper"):
        with unchecked():
            profiled = partial(profile, prior, classifier, batches[-1], **METHODS[method])
            record.attempt(f"profile {method}", lambda of=profiled: of().to_json())
