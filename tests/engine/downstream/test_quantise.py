"""int8 networks run, are near the float one, and differ with what they were calibrated on."""

import json
import sys
from pathlib import Path

import pytest
import torch

from engine import Comparison, Quantisation, quantise
from engine.apps.cli import main
from engine.downstream.quantise import _running, float_network, int8_network
from engine.errors import MissingExtraError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_int8_is_near_float_where_it_was_calibrated(tmp_path: Path, teacher) -> None:
    single = float_network(teacher, tmp_path)
    images = torch.rand(6, 3, 12, 12)
    exact = teacher.logits(images)
    assert (_running(single)(images) - exact).abs().max() < 1e-4
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(str(single)).graph.node}
    found = {}
    for name, seen in {"these": images, "dark": images * 0.05}.items():
        (tmp_path / f"{name}.onnx").write_bytes(int8_network(single, seen, Quantisation()))
        found[name] = _running(tmp_path / f"{name}.onnx")(images)
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "these.onnx")).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    error = {name: (logits - exact).abs().max().item() for name, logits in found.items()}
    assert 0 < error["these"] < 0.1 * exact.abs().max()
    assert error["dark"] > 2 * error["these"]  # ranges of dark images cut the bright ones off


def test_rows_are_reported_beside_the_float_network(
    tmp_path: Path, teacher, make_set, make_parquet
) -> None:
    folder, out = make_set(tmp_path / "ours", 3), tmp_path / "out"
    test = make_parquet(tmp_path / "test.parquet", 4)
    settings = {
        "quantisation": Quantisation(calibration_images=4),
        "comparison": Comparison(seeds=2),
    }
    report = quantise(folder, teacher, out=out, test=test, domain="near", **settings)
    assert report["network"]["agreement"] == 1
    assert report["network"]["accuracy"] == report["teacher"]["accuracy"] > 0.9
    assert report["calibration_images"] == 4
    assert report["rows"]["folder"]["accuracy"]["mean"] > 0.9
    files = [(out / "folder" / f"seed-{seed}" / "int8.onnx").read_bytes() for seed in (0, 1)]
    assert files[0] != files[1]  # other images were drawn
    (out / "folder/seed-1/measures.json").unlink()
    again = quantise(folder, teacher, out=out, test=test, domain="near", **settings)
    assert again["rows"]["folder"]["accuracy"] == report["rows"]["folder"]["accuracy"]
    assert (out / "folder" / "seed-1" / "int8.onnx").read_bytes() == files[1]
    request = json.loads((out / "request.json").read_text())
    del request["quantisation"]["per_channel"]  # as a version without this setting wrote it
    (out / "request.json").write_text(json.dumps(request))
    again = quantise(folder, teacher, out=out, test=test, domain="near", **settings)
    assert again["rows"]["folder"]["accuracy"] == report["rows"]["folder"]["accuracy"]


@pytest.mark.parametrize(
    "calibration", ["entropy", pytest.param("percentile", marks=pytest.mark.slow)]
)
def test_the_command_prints_one_object(
    tmp_path: Path, teacher_folder: Path, make_set, capsys, calibration: str
) -> None:
    command = [
        "quantise",
        str(make_set(tmp_path / "ours", 3)),
        "--classifier",
        str(teacher_folder),
        "--seeds",
        "1",
        "--calibration",
        calibration,
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["quantisation"]["calibration"] == calibration
    assert main(command) == 0
    said = capsys.readouterr().out
    int8, single = printed["rows"]["folder"]["file_bytes"]["mean"], printed["network"]["file_bytes"]
    assert f"int8 {int8 / 1e6:.2f} MB, float32 {single / 1e6:.2f} MB" in said


def test_without_onnx_runtime_the_extra_is_named(
    tmp_path: Path, teacher, make_set, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtraError, match=r"onnxruntime is not installed .*`pip install 'ddis\[onnx\]'`\.$"
    ):
        quantise(make_set(tmp_path / "ours", 3), teacher, out=tmp_path / "out")
