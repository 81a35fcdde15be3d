"""Made-up pictures in the files that the recipe reads."""

import io
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.embedded.train.data import CLASSES, DOMAINS


def picture(noise, side):
    file = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with two pictures of each pair of domain and class in each part, and twenty in place of CIFAR-10's."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    pairs = [pair for pair in product(DOMAINS, CLASSES) for _ in range(2)]
    rows = {
        "image": [picture(noise, 64) for _ in pairs],
        "label": [label for _, label in pairs],
        "domain": [domain for domain, _ in pairs],
    }
    for part in ("prior", "train", "test"):
        pq.write_table(pa.table(rows), folder / f"pacs64-{part}.parquet")
    names = ("airplane",) * 10 + ("cat",) * 10  # sorted, as CIFAR-10's is
    few = {"image": [picture(noise, 32) for _ in names], "label": names}
    pq.write_table(pa.table(few), folder / "cifar10-train.parquet")
    return folder
