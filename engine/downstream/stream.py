"""Images that are made while a student learns from them: the row `stream` of a distillation.

They are those of the folder's request with another seed and as many as are asked for, in parts. A part that is there is
read, so that the next student, and a run that was cut, makes none twice; other processes may make parts meanwhile
(`ddis generate --share` into the same place).
"""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from engine.classifiers import Classifier, Preprocess
from engine.classifiers.base import convert
from engine.datasets.dataset import load_sample
from engine.datasets.part_reading import read_part
from engine.datasets.run_record import RUN, read_run
from engine.datasets.store import open_store
from engine.downstream.pixels import empty_pixels, to_bytes
from engine.events import SILENT
from engine.facts import request_of
from engine.methods.models import Given
from engine.priors import Prior
from engine.request import Execution
from engine.runners.local import made_by
from engine.runners.share import PartMaker
from engine.settings.downstream import Streaming

BEFORE = 0.1
"""The share of all images that is made before the first update."""


class Stream:
    """Images in the order in which they are made; a student draws from the latest of them.

    pool: how many those are.
    """

    def __init__(self, maker: PartMaker, place: Path, preprocess: Preprocess, pool: int) -> None:
        self.maker, self.place, self.preprocess, self.pool = maker, place, preprocess, pool

    def __len__(self) -> int:
        return self.maker.groups.images

    @property
    def fingerprint(self) -> str:
        """Of what makes the images, as they need not be there."""
        made = json.dumps(made_by(self.maker.prepared), sort_keys=True)
        return blake2b(f"{made} {self.pool}".encode(), digest_size=8).hexdigest()

    def batches(
        self, batch: int, updates: int, device: torch.device, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """The views of each update, (n, 3, H, W) in [0, 1]; all images have been made when the last one is due."""
        pool = _Pool(min(self.pool, len(self)), self.preprocess)
        parts = self._parts()
        made = 0
        for update in range(updates):
            due = math.ceil(len(self) * (BEFORE + (1 - BEFORE) * (update + 1) / updates))
            while made < min(len(self), max(due, batch)):
                pixels = next(parts)
                pool.add(pixels)
                made += len(pixels)
            yield pool.drawn(batch, rng).to(device).float() / 255

    def _parts(self) -> Iterator[Tensor]:
        """The images of each part, (n, 3, H, W) uint8 as the network reads them."""
        missing = set(self.maker.dataset.missing())
        store = open_store(self.place)
        for part in range(self.maker.dataset.division.parts):
            if part in missing:
                self.maker.make(part, SILENT)
            images = [load_sample(*found).image for found in read_part(store, part)]
            yield torch.cat([to_bytes(self.preprocess.cut(image[None])) for image in images])


class _Pool:
    """The latest images, at most `size`."""

    def __init__(self, size: int, preprocess: Preprocess) -> None:
        self.pixels = empty_pixels((size, 3, *preprocess.crop))
        self.added = 0

    def add(self, pixels: Tensor) -> None:
        """Take images in, the oldest making room."""
        size = len(self.pixels)
        places = torch.arange(self.added, self.added + len(pixels))[-size:] % size
        self.pixels[places] = pixels[-size:]
        self.added += len(pixels)

    def drawn(self, number: int, rng: torch.Generator) -> Tensor:
        """Different images at random."""
        held = min(self.added, len(self.pixels))
        return self.pixels[torch.randperm(held, generator=rng)[:number]]


def check_streamable(folder: Path) -> None:
    """Raise ConfigError, before anything is made, for a folder that was not made by one run."""
    if (folder / RUN).exists():
        request_of(read_run(folder).made, folder)


def stream_of(
    teacher: Classifier, folder: Path, place: Path, prior: object, streaming: Streaming
) -> Stream:
    """More of what a folder holds, to be made in `place`.

    prior: the folder's, where it is loaded. Raises ConfigError for a folder that was not made by one run, and
    ModelError where its models are not there or the teacher is another classifier.
    """
    request, models = request_of(read_run(folder).made, folder)
    seed = stream_seed(request.seed)
    request = replace(request, images_per_class=streaming.images_per_class, seed=seed)
    given = Given(
        classifier=_in_dtype(teacher, models.get("classifier", {}).get("dtype")),
        prior=prior if isinstance(prior, Prior) else None,
    )
    execution = Execution(device=str(teacher.device), share="1/1")
    maker = PartMaker(request, execution, given, place, models)
    return Stream(maker, place, teacher.preprocess, streaming.pool)


def stream_seed(seed: int) -> int:
    """The seed of a folder's stream: none that a person would give another folder, whose images are then others."""
    return int.from_bytes(blake2b(f"stream of {seed}".encode(), digest_size=4).digest())


def _in_dtype(teacher: Classifier, recorded: str | None) -> Classifier:
    """The teacher in the dtype that a record tells of the classifier."""
    dtype = teacher.dtype if recorded is None else getattr(torch, recorded.removeprefix("torch."))
    if dtype == teacher.dtype:
        return teacher
    return teacher.with_network(convert(copy.deepcopy(teacher.network), dtype), dtype)
