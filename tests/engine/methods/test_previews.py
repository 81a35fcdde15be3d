"""Previews: shown only where somebody asks, right in what they measure, and without any effect on the images."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.events import Event, Events, Noted, Previewed, Stepped
from engine.guidance.domain import judged
from engine.methods import previews
from engine.methods.registry import prepare
from engine.priors import Step
from engine.request import ClassifierSource, Execution, PriorSource, Request
from engine.runners.local import LocalRunner
from engine.settings import Sampling
from engine.settings.methods import DDIS, Plain
from engine.types import Sample

SHORT = Sampling(steps=3, batch=4)
KEYS = ("0.0", "4.0", "0.1", "4.1")


@pytest.fixture(params=[DDIS, Plain], ids=["guided", "plain"])
def request_(request, classifier_folder: Path, small_prior_folder: Path) -> Request:
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=request.param(sampling=SHORT),
        classes=("dog", "horse"),
        images_per_class=2,
    )


def made(request: Request, **asked: bool) -> tuple[list[Sample], list[Event]]:
    seen: list[Event] = []
    runner = LocalRunner(None, Execution(device="cpu"), Events(seen.append, **asked))
    return [*runner.run(request)], seen


def test_previews_come_with_each_step_and_change_no_image(request_: Request) -> None:
    plain, silent = made(request_)
    watched, seen = made(request_, previews=True)
    assert not [event for event in silent if isinstance(event, Previewed)]
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.logits, other.logits)
        assert one.l_bn == other.l_bn
    shown = [event for event in seen if isinstance(event, Previewed)]
    assert [(event.index, event.total) for event in shown] == [(0, 3), (1, 3), (2, 3)]
    assert {event.keys for event in shown} == {KEYS}
    places = [place for place, event in enumerate(seen) if isinstance(event, Previewed)]
    assert all(isinstance(seen[place + 1], Stepped) for place in places)
    line = json.loads(shown[0].to_json())
    assert line["event"] == "preview"
    assert len(line["pngs"]) == len(KEYS)


def test_a_preview_is_the_predicted_image_and_its_l_bn(request_: Request) -> None:
    """The prior has no tiny decoder, so that both are decoded alike."""
    prepared = prepare(request_, None, Execution(device="cpu"))
    shown: list[Event] = []
    decoded: list[torch.Tensor] = []

    def watch(_: Step, clean: torch.Tensor) -> None:
        decoded.append(prepared.prior.decode(clean))

    (group,) = prepared.groups()
    prepared.make(group, Events(shown.append, previews=True), watch)
    for event in (event for event in shown if isinstance(event, Previewed)):
        images = decoded[event.index]
        assert event.l_bn == pytest.approx(judged(prepared.classifier, images)[1].tolist())
        for image, png in zip(images, event.pngs, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
                pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            assert max(picture.size) <= previews.PREVIEW_PX
            assert (pixels / 255 - image).abs().max() <= 0.5 / 255 + 1e-6
    assert len(decoded) == SHORT.steps


@pytest.mark.parametrize("chunk", [1, 3])
def test_parts_of_a_plan_are_previewed_alike(
    request_: Request, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = made(request_, previews=True)
    sizes: list[int] = []

    def counted(classifier, images):
        sizes.append(len(images))
        return judged(classifier, images)

    monkeypatch.setattr(previews, "judged", counted)
    monkeypatch.setattr(
        "engine.memory.micro_batch.MicroBatches.__init__",
        _with_sizes({"guidance": chunk, "decode": chunk}),
    )
    _, parted = made(request_, previews=True)
    assert max(sizes) == (chunk if isinstance(request_.method, DDIS) else 1)
    one, other = (
        next(event for event in seen if isinstance(event, Previewed)) for seen in (whole, parted)
    )
    assert other.l_bn == pytest.approx(one.l_bn, rel=1e-4)


def _with_sizes(sizes: dict[str, int]):
    def __init__(self, _=None, release=lambda: False) -> None:
        from engine.events import SILENT

        self.sizes, self.events, self.release, self.fixed = dict(sizes), SILENT, release, False
        self.previews = True

    return __init__


def test_a_preview_without_room_ends_previews_and_not_the_run(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(previews, "judged", full)
    method = replace(request_.method, sampling=replace(SHORT, batch=2))  # two groups
    samples, seen = made(replace(request_, method=method), previews=True)
    assert len(samples) == len(KEYS)
    assert [event for event in seen if isinstance(event, Noted)] == [Noted(previews.NO_ROOM)]
    assert not [event for event in seen if isinstance(event, Previewed)]


def test_another_error_of_a_preview_is_no_matter_of_room(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(previews, "judged", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        made(request_, previews=True)
