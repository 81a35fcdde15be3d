"""Parts of results by hand, what ships with them, and the cells of the tables that are made of them."""

from collections.abc import Callable
from dataclasses import asdict

import pytest
from reports.current import Current, Shipped

from engine.settings import Alignment, Sampling
from engine.settings.downstream import Distillation


@pytest.fixture
def metrics() -> Callable[..., dict]:
    """metrics(fid): what the evaluator says of one row."""

    def of(fid: float, precision: float = 0.5, recall: float = 0.25) -> dict:
        values = {
            "fid": fid,
            "kid": 0.1,
            "precision": precision,
            "recall": recall,
            "coverage": recall / 2,
        }
        return {
            name: {"value": value, "low": value, "high": value} for name, value in values.items()
        }

    return of


@pytest.fixture
def made(metrics) -> Callable[..., dict]:
    """made(fid): a row of the evidence."""

    def of(fid: float, flops: float = 1e9, **more: float) -> dict:
        row = {"metrics": metrics(fid, **more), "flops_per_image": flops}
        return row | {"seconds_per_image": 1.0, "images": 7}

    return of


@pytest.fixture
def taught() -> Callable[..., dict]:
    """taught(mean): the accuracy of what learned from one set."""

    def of(mean: float, images: int = 7) -> dict:
        return {"images": images, "accuracy": {"mean": mean, "spread": None, "values": [mean]}}

    return of


@pytest.fixture
def cells() -> Callable[[str, str], list[str]]:
    """cells(table, first): the cells of the row that begins with `first`, bold or not, without the first."""

    def of(table: str, first: str) -> list[str]:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
        return [cell.strip() for cell in line.split("|")[2:-1]]

    return of


@pytest.fixture
def cell() -> Callable[..., dict[str, float]]:
    """cell(l_bn=140.0): what the evidence counted of one class and seed."""

    def of(**changed: float) -> dict[str, float]:
        counted = {"judge_domain": 0.2, "judge_class": 0.5, "teacher_class": 0.25, "l_bn": 100.0}
        return {"images": 7, **counted} | changed

    return of


@pytest.fixture
def now() -> Current:
    """A prior "now", tokens "a" of photo and none of sketch, today's defaults, and two methods of one name each."""
    dag = {"alignment": asdict(Alignment()), "sampling": asdict(Sampling())}
    plain = {"alignment": None, "sampling": asdict(Sampling())}
    return Current(
        prior="now",
        tokens={"photo": Shipped(fingerprint="a", words={"dog": None}), "sketch": None},
        alignment=asdict(Alignment()),
        sampling=asdict(Sampling()),
        distillation=asdict(Distillation()),
        methods={"DAG": dag, "plain": plain},
        variants={"guidance_study": {"base": dag}, "few_steps": {"base": dag}},
    )
