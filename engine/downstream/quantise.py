"""Static int8 quantisation: what range the activations have is read from synthetic images, by ONNX Runtime.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference (CVPR 2018):
x is about scale (q - zero point), q of 8 bits. Weights give their own scales; those of activations must be seen.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from engine.classifiers import Classifier
from engine.downstream.comparison import compare, write_report
from engine.downstream.inputs import prepare, teacher_for
from engine.downstream.pixels import Images
from engine.downstream.sources import Inputs
from engine.downstream.training import Logits
from engine.errors import ModelError, brief
from engine.events import SILENT, Advance, Events
from engine.files import whole_file
from engine.onnx.export import installed, write
from engine.onnx.graphs import network_graph
from engine.onnx.session import Session
from engine.priors import Prior
from engine.settings.downstream import Comparison, Quantisation

CPU = torch.device("cpu")
INT8 = "int8.onnx"
INPUT = "images"


def quantise(
    folder: str | Path,
    classifier: str | Path | nn.Module | Classifier,
    *,
    out: str | Path,
    original: str | Path | None = None,
    plain: str | Path | None = None,
    prior: str | Path | Prior = "embedded",
    test: str | Path | None = None,
    domain: str | None = None,
    rows: Mapping[str, str | Path] | None = None,
    quantisation: Quantisation = Quantisation(),
    comparison: Comparison = Comparison(),
    events: Events = SILENT,
) -> dict[str, Any]:
    """Bring the classifier to int8, calibrated on the images of `folder` and, in equal numbers, on other sets.

    Args:
        folder: a finished data set of `generate`.
        classifier: the one that the folder was generated for, as `generate` takes it.
        out: keeps every network, and report.json; resumed if it was interrupted.
        original: row of images of the training set: a folder with one folder for each class, or a parquet file.
        plain: row of the plain prior: a folder of its images, or 'generate' to draw one with `prior`.
        prior: what draws plain images, as `generate` takes it.
        test: real images that accuracy is measured on, as `original`; without them, agreement with the classifier on a
            held-out part of the folder.
        domain: only these rows of parquet files.
        rows: further sets as `original`, by the names of their rows.
        quantisation: how ranges are found.
        comparison: seeds, sizes, and what is held out.
        events: where progress is reported.

    Returns:
        The report of `distill`; its "network" is the float model in ONNX Runtime. Each run keeps int8.onnx: images
        (N, 3, H, W) in [0, 1] of the size that the network reads -> logits (N, K).

    Raises:
        MissingExtraError: without ONNX Runtime.
        EngineError: other children of it for each mistake that is the caller's.
    """
    check_packages()
    out, inputs = Path(out).expanduser(), Inputs.of(folder, original, test, domain, rows)
    teacher = teacher_for(classifier, out, events)
    ready = prepare(teacher, inputs, plain, prior, out, comparison, False, events)

    def measured(file: Path, keep: Path | None = None) -> dict[str, float | None]:
        size: dict[str, float | None] = {"file_bytes": file.stat().st_size}
        return ready.measured(_running(file), CPU, keep) | size

    with TemporaryDirectory(prefix="ddis-int8-") as scratch:
        single = float_network(teacher, Path(scratch))

        def run(images: Images, seed: int, place: Path, advance: Advance) -> dict[str, Any]:
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            few = chosen[: quantisation.calibration_images]
            with whole_file(place / INT8) as file:
                file.write(int8_network(single, images.views(few, CPU), quantisation))
            advance(1.0)
            return measured(place / INT8, place)

        request = {"classifier": teacher.describe(), "quantisation": asdict(quantisation)}
        report = compare("quantise", out, ready.sets, comparison.seeds, request, run, events)
        used = min(quantisation.calibration_images, report["rows"]["folder"]["images"])
        report |= {
            "folder": str(inputs.folder),
            "calibration_images": used,
            "teacher": ready.measured_teacher(),
            "network": measured(single),
        }
    write_report(out, report)
    return report


def check_packages() -> None:
    """Raise MissingExtraError where one that quantising needs is not there."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        installed(package, runtime=False)


def float_network(classifier: Classifier, folder: Path) -> Path:
    """The classifier in float32 as an ONNX file that the quantiser takes: BatchNorm folded into convolutions."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = folder / "plain.onnx", folder / "float32.onnx"
    single = classifier.with_network(copy.deepcopy(classifier.network).float(), torch.float32)
    write(network_graph(single), plain, folded=True)
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    return ready


def int8_network(single: Path, images: Tensor, quantisation: Quantisation) -> bytes:
    """The int8 form of an ONNX file, calibrated on images (N, 3, H, W) in [0, 1].

    Raises ModelError where ONNX Runtime cannot quantise it.
    """
    from onnxruntime import quantization as ort

    methods = {
        "minmax": ort.CalibrationMethod.MinMax,
        "entropy": ort.CalibrationMethod.Entropy,
        "percentile": ort.CalibrationMethod.Percentile,
    }
    with TemporaryDirectory(prefix="ddis-int8-") as scratch:
        target = Path(scratch) / INT8
        try:
            # It prints to stdout, where a command's one JSON object goes.
            with redirect_stdout(StringIO()):
                ort.quantize_static(
                    str(single),
                    str(target),
                    _reader(images),
                    quant_format=ort.QuantFormat.QDQ,
                    per_channel=quantisation.per_channel,
                    activation_type=ort.QuantType.QInt8,
                    weight_type=ort.QuantType.QInt8,
                    calibrate_method=methods[quantisation.calibration],
                )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"ONNX Runtime cannot quantise the network ({brief(error)}), expected convolutions and matrices in "
                "float32: choose another calibration, or another classifier."
            ) from error
        return target.read_bytes()


def _reader(images: Tensor) -> Any:
    """Images one at a time, as the quantiser asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[Tensor] = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image.contiguous().numpy()}

    return Reader()


def _running(file: Path) -> Logits:
    session = Session(file, CPU)
    return lambda images: session(images)[0]
