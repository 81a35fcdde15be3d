"""What a run descended: mean and spread over images, whatever their number and whatever is missing."""

import json
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from engine.classifiers import Classifier
from engine.priors import Prior
from engine.runners.descended import MOST_POINTS, Descended
from engine.runners.generate import generate
from engine.settings import Sampling


def test_mean_and_spread_are_those_of_the_images() -> None:
    curves = np.random.default_rng(0).normal(1e3, 1.0, (50, 7))
    found = Descended()
    for curve in curves:
        found.note(tuple(curve))
    made = found.to_json()
    assert made is not None
    assert made["images"] == 50
    assert made["steps"] == [1, 2, 3, 4, 5, 6, 7]
    assert made["mean"] == pytest.approx(curves.mean(0), rel=1e-5)
    assert made["spread"] == pytest.approx(curves.std(0, ddof=1), rel=1e-5)


def test_values_that_are_none_are_left_out() -> None:
    found = Descended()
    assert found.to_json() is None
    for curve in ((1.0, nan, nan), (3.0, 5.0, inf), (), (1.0,)):
        found.note(curve)
    made = {"images": 2, "steps": [1, 2], "mean": [2.0, 5.0], "spread": [1.41421, 0.0]}
    assert found.to_json() == made
    json.dumps(made, allow_nan=False)


def test_a_long_curve_is_thinned_to_its_ends() -> None:
    found = Descended()
    found.note(tuple(map(float, range(2000))))
    made = found.to_json()
    assert made is not None
    assert len(made["steps"]) == MOST_POINTS
    assert (made["steps"][0], made["steps"][-1]) == (1, 2000)
    assert made["mean"] == [step - 1.0 for step in made["steps"]]


def test_a_run_records_it(tmp_path: Path, classifier: Classifier, small_prior: Prior) -> None:
    curves = [
        sample.curve
        for sample in generate(
            classifier,
            small_prior,
            images_per_class=1,
            sampling=Sampling(steps=3),
            out=tmp_path / "set",
        )
    ]
    kept = json.loads((tmp_path / "set" / "run.json").read_text())["measured"]["descended"]
    assert kept["images"] == len(curves)
    assert kept["mean"] == pytest.approx(np.mean(curves, axis=0), rel=1e-4)
