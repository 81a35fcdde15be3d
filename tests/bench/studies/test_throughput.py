"""bench/studies/throughput.py runs and writes what it says; its figures are for a quiet machine."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_method_is_told_with_its_environment(tmp_path: Path, bench_script) -> None:
    out = tmp_path / "throughput.json"
    bench_script("studies.throughput").main(["--quick", "--out", str(out)])
    result = json.loads(out.read_text())
    assert set(result["images_per_minute"]) == {"plain/2", "paper/2", "ours/2"}
    assert min(result["images_per_minute"].values()) > 0
    assert min(result["guided_over_plain_step"].values()) > 0
    assert set(result["environment"]) == {"device", "threads", "versions"}
    assert set(result["ways"]) == {"float32", "bfloat16", "float32, ONNX Runtime"}
    assert min(rate for way in result["ways"].values() for rate in way.values()) > 0
    assert set(result["quality"]) == {"float32", "bfloat16"}
    assert result["demo"]["peak_bytes"] > 2e8
