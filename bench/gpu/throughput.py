"""The study of throughput on this device: images a minute of the embedded models."""

import json

from studies import throughput

from gpu.card import Card
from gpu.record import Record


def measure(record: Record, card: Card) -> None:
    file = record.file.with_name("throughput.raw")
    options = card.pick(["--steps", "30", "--repeats", "1"], ["--quick"])
    throughput.main(["--only", "methods", "--out", str(file), *options])
    record.put("embedded", json.loads(file.read_text()))
