"""The claims about a GPU: read from what the parts write, 'not measured' where they wrote nothing."""

from copy import deepcopy
from typing import Any

import pytest


@pytest.fixture
def claims(gpu):
    return gpu("claims")


@pytest.fixture
def results() -> dict[str, Any]:
    """Results of a CUDA device in which each claim holds."""
    peak = {"predicted_bytes": 3.9e9, "measured_bytes": 3.8e9, "error": 0.026}
    generate = {"phases": {"guidance": peak | {"error": -0.05}}, "run": peak}
    update = {"seconds_per_update": 0.5, "images": 8, "measured_bytes": 5.5e9}
    memory = {f"{budget}, batch 8": {"generate": generate} for budget in ("12GB", "8GB")}
    memory["6GB, batch 8"] = {"generate": generate, "learn": {"update": update}}
    memory["4GB, batch 1"] = {"generate": generate}
    bandwidth = {
        op: {"us": 100.0, "share": 0.95} for op in ("moments", "forward", "forward and backward")
    }
    steps = {
        f"step {method}, {way}, batch {batch}": {"ratio": ratio}
        for method, way, ratio in (
            ("ours", "graph", 1.1),
            ("ours", "eager", 1.3),
            ("paper", "graph", 4.5),
        )
        for batch in (1, 4, 8)
    }
    rates = {
        f"run {method}, {way}, batch {batch}": {"images_per_minute": 20.0 * batch}
        for method in ("plain", "ours")
        for way in ("eager", "graph")
        for batch in (1, 4, 8)
    }
    return {
        "device": "cuda",
        "parts": {"env": "ok, 3 s", "check": "ok, 60 s"},
        "env": {
            "commit": "abc",
            "device": {"name": "NVIDIA Some Card"},
            "versions": {"torch": "2.11.0"},
        },
        "check": {
            "cases": 3,
            "done": 3,
            "wrong": {},
            "worst_relative_error": {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2},
        },
        "networks": {
            f"ResNet-50, batch {batch}, channels_last": {
                "fused": {"ratio": 1.03},
                "hook": {"ratio": 1.4},
            }
            for batch in (8, 32)
        },
        "bandwidth": {
            "copy_gb_per_s": 3000.0,
            "large map": {"large": True} | bandwidth,
            "small map": {"large": False} | {op: {"share": 0.1} for op in bandwidth},
        },
        "step": steps | rates,
        "memory": memory,
    }


def by_name(claims, results: dict[str, Any], words: str):
    (found,) = (claim for claim in claims.claims(results) if words in claim.name)
    return found


def test_each_claim_is_read_from_the_results(claims, results) -> None:
    found = claims.claims(results)
    assert {claim.verdict for claim in found if claim.goal} == {"yes"}
    assert {claim.verdict for claim in found if not claim.goal} == {""}
    assert by_name(claims, results, "channels_last, batch 32").reached == "1.03 (hooks 1.40)"
    assert (
        by_name(claims, results, "512 px, float16, batch 8").reached
        == "1.10 graph (eager 1.30, paper, graph 4.50)"
    )
    assert by_name(claims, results, "class token").reached == "5.5 GB, 0.50 s for 8 images"
    assert by_name(claims, results, "budget of 6GB").reached == "-5.0%"
    assert "0.95" in by_name(claims, results, "bandwidth").reached
    images = by_name(claims, results, "30 steps, batch 4").reached
    assert images == "plain 80 graph, 80 eager; ours 80 graph, 80 eager"


def shortfalls():
    """What to change, and the claim that is then not held."""
    return [
        (("check", "worst_relative_error", "float16"), 1.0, "float64"),
        (("check", "wrong"), {"case": {"error": "wrong"}}, "float64"),
        (("check", "done"), 2, "float64"),
        (
            ("networks", "ResNet-50, batch 8, channels_last", "fused", "ratio"),
            1.06,
            "channels_last, batch 8",
        ),
        (("bandwidth", "large map", "moments", "share"), 0.89, "bandwidth"),
        (("step", "step ours, graph, batch 4", "ratio"), 1.2, "px, float16, batch 4"),
        (("memory", "8GB, batch 8", "generate", "run", "error"), 0.11, "budget of 8GB"),
        (
            ("memory", "4GB, batch 1", "generate", "run", "measured_bytes"),
            4.1e9,
            "`generate`, batch 1",
        ),
        (("memory", "6GB, batch 8", "learn", "update", "measured_bytes"), 6.1e9, "class token"),
    ]


@pytest.mark.parametrize(("place", "value", "words"), shortfalls(), ids=lambda v: str(v)[:40])
def test_a_claim_that_is_not_held_says_no(claims, results, place, value, words) -> None:
    results = deepcopy(results)  # cases share their rows
    *path, last = place
    row = results
    for key in path:
        row = row[key]
    row[last] = value
    assert by_name(claims, results, words).verdict == "no"


def test_what_failed_or_did_not_run_is_not_measured(claims, results) -> None:
    del results["networks"]
    for way in ("graph", "eager"):
        results["step"][f"step ours, {way}, batch 1"] = {"error": "OutOfMemoryError: no room"}
    results["step"]["step ours, graph, batch 4"] = {"error": "ModelError: cannot be recorded"}
    results["memory"]["6GB, batch 8"]["learn"] = {"refused": "too small"}
    for words in ("channels_last, batch 8", "px, float16, batch 1", "class token"):
        assert by_name(claims, results, words).verdict == "not measured"
    eager = by_name(claims, results, "px, float16, batch 4")
    assert eager.reached == "1.30 eager (paper, graph 4.50)"
    assert eager.verdict == "no"
    assert {claim.verdict for claim in claims.claims({})} == {"not measured"}


def test_a_dry_run_claims_nothing(claims, results) -> None:
    assert {claim.verdict for claim in claims.claims(results | {"device": "cpu"})} == {
        "not measured"
    }


def test_the_table_says_where_it_was_measured_or_how_to(claims, results) -> None:
    table = claims.claims_table(results)
    assert table.startswith("NVIDIA Some Card, commit abc; torch 2.11.0.")
    assert "| at most 1.05 | 1.03 (hooks 1.40) | yes |" in table
    sentence = "Not measured yet: `make gpu`, on a CUDA machine."
    assert claims.claims_table(None) == sentence
    assert claims.claims_table(results | {"device": "cpu"}) == sentence


def test_the_summary_fits_a_screen_whatever_failed(gpu, results) -> None:
    summary = gpu("summary").summary
    text = summary(results)
    assert len(text.splitlines()) <= 30
    assert "rows that failed: 0" in text
    assert "at most 1.15: yes: 1.10 graph" in text
    results["cat"] = {f"row {number}": {"error": "RuntimeError: no"} for number in range(50)}
    results["parts"] |= {f"part {number}": "failed: exit code 1 after 10 s" for number in range(13)}
    lines = summary(results).splitlines()
    assert len(lines) == 30
    assert max(map(len, lines)) <= 160
    assert any(
        line.startswith("rows that failed: 50, of which these are the first") for line in lines
    )
    assert "cat | row 0 | RuntimeError: no" in lines
