"""Samples without models."""

from collections.abc import Callable

import pytest
import torch

from engine.types import ImageKey, Sample, image_rng

MakeSample = Callable[..., Sample]


@pytest.fixture
def make_sample() -> MakeSample:
    """(class number, index, label) -> a sample of noise with three logits; other fields as keywords."""

    def make(class_index: int, index: int, label: str, size: int = 8, **fields: object) -> Sample:
        rng = image_rng(0, ImageKey(class_index, index))
        content: dict[str, object] = {
            "key": ImageKey(class_index, index),
            "label": label,
            "seed": 0,
            "prompt": f"a {label}",
            "token": f"<ddis-{class_index}>",
            "image": torch.rand(3, size, size, generator=rng),
            "logits": torch.randn(3, generator=rng),
            "l_bn": 1 / 3,
            "confidence": 0.1,
            "group": "0/0",
        }
        return Sample(**(content | fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs of memory are taken: a store of fsspec without a service."""
    monkeypatch.setattr("engine.datasets.store.FORGOTTEN", ())
