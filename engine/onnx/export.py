"""Writing graphs as ONNX files into a folder that serves as a cache."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import torch

from engine.classifiers.base import Classifier
from engine.errors import MissingExtraError, ModelError, brief
from engine.events import SILENT, Events
from engine.files import DAY, TEMPORARY, explained, make_folder, remove_leftovers, sync_folder
from engine.guidance.decoder import GuidanceDecoder
from engine.onnx.graphs import (
    Calls,
    Graph,
    classifier_graph,
    decoder_graph,
    denoiser_graph,
    gradient_graph,
)
from engine.priors import Prior
from engine.settings import Alignment

LARGEST_BATCH = 63
"""The bound on the batch that torch.export gets: from 64 images on diffusers makes a tensor contiguous before it is
upsampled, for which ONNX has no operator. Without the bound the export fails and torch.onnx repeats it with one. The
file takes larger batches all the same."""

OR_TORCH = ", or set `runtime` to 'torch'"
"""What also helps where a package is not installed."""


def export_all(
    prior: Prior,
    classifier: Classifier,
    alignment: Alignment | None,
    decoder: GuidanceDecoder | None,
    folder: Path,
    events: Events = SILENT,
) -> list[Path]:
    """The files of every graph of these models below `folder`, which then serves as a cache of `session`."""
    graphs = [
        denoiser_graph(prior),
        decoder_graph(prior),
        classifier_graph(classifier, prior.image_size),
    ]
    if alignment is not None and decoder is not None:
        graphs.append(gradient_graph(prior, classifier, alignment, decoder))
    files = []
    with events.task("graphs", len(graphs)) as task:
        for graph in graphs:
            files.append(exported(graph, folder))
            task.progress(1, str(files[-1]))
    return files


def exported(graph: Graph, cache: Path) -> Path:
    """The graph's file below `cache`, written if it is not there: its folder appears whole or not at all.

    What a killed process left of one a day ago or earlier is deleted.
    """
    folder = cache / f"{graph.name}-{graph.key}"
    if not folder.is_dir():
        make_folder(cache)
        remove_leftovers(cache, older_than=DAY)
        with explained(folder):
            temporary = Path(mkdtemp(prefix=TEMPORARY, dir=cache))
            try:
                write(graph, temporary / f"{graph.name}.onnx")
                for file in temporary.iterdir():
                    with open(file, "rb") as written:
                        os.fsync(written.fileno())
                try:
                    temporary.rename(folder)
                    sync_folder(cache)
                except OSError:
                    if not folder.is_dir():  # else another process wrote the same meanwhile
                        raise
            finally:
                rmtree(temporary, ignore_errors=True)
    return folder / f"{graph.name}.onnx"


def write(graph: Graph, file: Path, folded: bool = False) -> None:
    """Write one graph as an ONNX file; weights beyond 2 GB go into a second file beside it.

    folded: compute now what follows from constants alone, such as the zeros of a convolution without a bias.
    """
    for package in ("onnx", "onnxscript"):
        installed(package)
    batch = torch.export.Dim("batch", max=LARGEST_BATCH)
    shapes = [{0: batch} if name in graph.batched else {} for name in graph.inputs]
    try:
        with _quiet(), torch.no_grad():
            module = graph.build().eval()
            program = torch.onnx.export(
                module,
                graph.examples,
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=(tuple(shapes),) if isinstance(module, Calls) else tuple(shapes),
                verbose=False,
                optimize=folded,
            )
            assert program is not None
            _forget_sources(program.model)
            program.save(file)
    except (torch.onnx.OnnxExporterError, NotImplementedError) as error:
        raise ModelError(
            f"the {graph.name} cannot be written as ONNX ({brief(error)}), expected a network whose operators ONNX "
            "has: set `runtime` to 'torch'."
        ) from error


def _forget_sources(model: Any) -> None:
    """Take out of a model what the exporter says of each node's lines of Python: paths of this machine, mostly."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()


def installed(package: str, *, runtime: bool = True) -> ModuleType:
    """Import an optional package of the extra `onnx`.

    runtime: whether it is wanted for the setting `runtime`, which has a value that needs none.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{package} is not installed ({brief(error)}), expected it for ONNX: run `pip install 'ddis[onnx]'`"
            f"{OR_TORCH if runtime else ''}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
