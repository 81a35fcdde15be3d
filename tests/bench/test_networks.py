"""The networks and devices of bench/: what is measured is finite, and where it was asked for."""

import json
from pathlib import Path

import pytest
import torch

from engine.classifiers import load_classifier
from engine.classifiers.statistics.batch_norm import is_batch_norm
from engine.priors import load_prior
from engine.runners.asking import asked


@pytest.mark.parametrize("px", [64, 160])
def test_an_untrained_network_has_statistics_of_the_size_it_is_measured_at(
    bench_script, px: int
) -> None:
    """Its activations then stay of order one behind every BatchNorm; those of a larger image would not."""
    network, images = bench_script("networks").case("cpu", "ResNet-18", px, 2, "contiguous")
    deviations: list[float] = []
    for layer in network.modules():
        if is_batch_norm(layer):
            layer.register_forward_hook(lambda module, inputs, y: deviations.append(float(y.std())))
    with torch.no_grad():
        network(images)
    assert min(deviations) > 0.1
    assert max(deviations) < 3
    assert not network.training


def test_onnx_runtime_is_measured_on_the_device_that_is_named(
    bench_script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, seen = bench_script("studies.onnx_runtime"), []

    def ratios(
        runs: dict[str, object], baseline: str, device: str, rounds: int
    ) -> dict[str, object]:
        seen.append(device)
        return {}

    def watched(classifier, prior, **settings):
        return asked(classifier, prior, **{**settings, "runtime": "torch", "onnx_cache": None})

    def on_cpu(load):
        def loaded(*source: str, device: str) -> object:
            seen.append(device)
            return load(*source, device="cpu")

        return loaded

    for load in (load_classifier, load_prior):
        monkeypatch.setattr(script, load.__name__, on_cpu(load))
    monkeypatch.setattr(script, "asked", watched)
    monkeypatch.setattr(script, "median_ratios", ratios)
    monkeypatch.setattr(script, "versions", dict)
    monkeypatch.setattr(script, "version", str)
    out = tmp_path / "result.json"
    monkeypatch.setattr(
        "sys.argv",
        [
            "onnx_runtime.py",
            "--threads",
            "1",
            "--batch",
            "7",
            "--device",
            "cuda:1",
            "--out",
            str(out),
        ],
    )
    script.main()
    assert seen[:2] == ["cuda:1"] * 2
    assert set(seen[2:]) == {"cpu"}  # where the models are
    assert json.loads(out.read_text())["settings"]["device"] == "cuda:1"
