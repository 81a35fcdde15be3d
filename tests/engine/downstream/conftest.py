"""A tiny teacher, data set folders that it labelled, and folders and parquet files of real images, all made in code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from engine.classifiers import Classifier, Preprocess, load_classifier, save_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.datasets.dataset import open_dataset
from engine.datasets.images import png_bytes, to_picture
from engine.types import ImageKey, Sample

LABELS = ("dog", "horse", "guitar")
PX = 12
MakeSet = Callable[..., Path]


def picture(number: int, rng: torch.Generator) -> Tensor:
    """An image whose class is the channel that is bright."""
    image = 0.3 * torch.rand(3, PX, PX, generator=rng)
    image[number] += 0.6
    return image


@pytest.fixture(scope="session")
def teacher() -> Classifier:
    """An 8-layer ResNet that tells the bright channel, after a few steps on random images."""
    torch.manual_seed(5)
    network = CifarResNet(depth=8, widths=(8, 8, 12), classes=len(LABELS)).train()
    rng = torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(25):
        classes = torch.randint(0, len(LABELS), (24,), generator=rng)
        images = torch.stack([picture(number, rng) for number in classes.tolist()])
        loss = torch.nn.functional.cross_entropy(network((images - 0.5) / 0.25), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reads = Preprocess.squash(PX, mean=(0.5,) * 3, std=(0.25,) * 3)
    return load_classifier(network, labels=LABELS, preprocess=reads, device="cpu")


@pytest.fixture
def teacher_folder(tmp_path: Path, teacher: Classifier) -> Path:
    """The teacher as its user would save it."""
    folder = tmp_path / "net"
    reads = teacher.preprocess
    save_classifier(
        folder, teacher.network, architecture="resnet8", labels=LABELS, preprocess=reads
    )
    return folder


@pytest.fixture
def make_set(teacher: Classifier) -> MakeSet:
    """(folder, images of each class, seed, labels, made_with) -> a finished data set with the teacher's logits."""

    def make(
        folder: Path,
        number: int = 6,
        seed: int = 0,
        labels: tuple[str, ...] = LABELS,
        made_with: Any = None,
    ) -> Path:
        rng = torch.Generator().manual_seed(seed)
        config = {"classifier": teacher.describe()} if made_with is None else made_with
        with open_dataset(folder, config, dict(enumerate(labels))) as writer:
            for index in range(number):
                for place, label in enumerate(labels):
                    image = picture(place, rng)
                    logits = teacher.logits(image[None])[0]
                    writer.add(
                        Sample(
                            key=ImageKey(place, index),
                            label=label,
                            seed=seed,
                            prompt="",
                            token="",
                            image=image,
                            logits=logits,
                            l_bn=0.0,
                            confidence=0.5,
                            group="",
                        )
                    )
            writer.finish({})
        return folder

    return make


@pytest.fixture
def make_parquet() -> MakeSet:
    """(file, images of each class, seed, labels) -> as many images in the domain 'far', which are black, and 'near'."""

    def make(file: Path, number: int = 6, seed: int = 1, labels: tuple[str, ...] = LABELS) -> Path:
        rng = torch.Generator().manual_seed(seed)
        rows = [
            {
                "image": {
                    "bytes": png_bytes(to_picture(picture(place % 3, rng) * (domain == "near"))),
                    "path": None,
                },
                "label": label,
                "domain": domain,
            }
            for domain in ("far", "near")
            for _ in range(number)
            for place, label in enumerate(labels)
        ]
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file

    return make
