"""What guidance costs: a plain and a guided step, ours and the paper's, whole runs, and where a step's time goes."""

from functools import partial
from itertools import product
from typing import Any

from engine import profile
from engine.runners.asking import asked
from gpu.card import Card
from gpu.record import Record
from gpu.steps import LAUNCHING, METHODS, STEPS, images_per_minute, timed_step, unchecked


def measure(record: Record, card: Card) -> None:
    """Put `step <method>, <launching>, batch <n>`, `run <method>, ...` and `profile <method>`."""
    prior, classifier = card.prior(), card.classifier()
    batches, steps = card.pick((1, 4, 8), (1,)), card.pick(STEPS, 2)

    def step(batch: int, method: str, way: str) -> dict[str, Any]:
        options = {"memory": "auto"} | METHODS[method] | LAUNCHING[way]
        wanted = asked(classifier, prior, classifier.labels[:1], batch, **options)
        return timed_step(card, wanted.prepare())

    def run(batch: int, method: str, way: str) -> dict[str, Any]:
        options = METHODS[method] | LAUNCHING[way]
        return images_per_minute(card, classifier, prior, batch, steps, **options)

    for batch, method, way in product(batches, ("ours", "paper", "ours, full VAE"), LAUNCHING):
        name = f"step {method}, {way}, batch {batch}"
        record.attempt(name, partial(step, batch, method, way))
    for batch, method, way in product(batches, ("plain", "ours"), LAUNCHING):
        record.attempt(f"run {method}, {way}, batch {batch}", partial(run, batch, method, way))
    for method in ("ours", "paper"):
        with unchecked():
            profiled = partial(profile, prior, classifier, batches[-1], **METHODS[method])
            record.attempt(f"profile {method}", lambda of=profiled: of().to_json())
