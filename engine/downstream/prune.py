"""Structured pruning: channels of least L1 norm go, then the network is taught again on synthetic images alone.

Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017, arXiv 1608.08710): a filter's weight is the sum of its
absolute values. As there, only layers within a residual block lose filters: those whose output a shortcut is added to
must keep its width. torch-pruning (Fang et al., CVPR 2023) follows which layers hang together.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess
from engine.classifiers.architectures import architecture_of
from engine.downstream.comparison import compare, write_report
from engine.downstream.inputs import check_updates, prepare, teacher_for
from engine.downstream.pixels import Images
from engine.downstream.sources import Inputs
from engine.downstream.students import keep_student, size_of
from engine.downstream.training import reading, teach
from engine.errors import ConfigError, MissingExtraError, ModelError, brief
from engine.events import SILENT, Advance, Events
from engine.priors import Prior
from engine.settings.downstream import Comparison, Distillation, Pruning

LAYERS = (nn.Conv2d, nn.Linear)


def prune(
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
    pruning: Pruning = Pruning(),
    distillation: Distillation = Distillation.fine_tuning(),
    comparison: Comparison = Comparison(),
    events: Events = SILENT,
) -> dict[str, Any]:
    """Prune the classifier and teach it again on the images of `folder` and, in equal numbers, on other sets.

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
        pruning: how much is cut off.
        distillation: how the pruned network is taught; the classifier as it was is the teacher.
        comparison: seeds, sizes, and what is held out.
        events: where progress is reported.

    Returns:
        The report of `distill`; its "network" also holds what was kept of the teacher's parameters and FLOPs, and what
        the pruned network reaches before it is taught.

    Raises:
        MissingExtraError: without torch-pruning.
        EngineError: other children of it for each mistake that is the caller's.
    """
    library = pruning_library()
    check_updates(comparison, distillation)
    out, inputs = Path(out).expanduser(), Inputs.of(folder, original, test, domain, rows)
    stored = distillation.soft_labels == "manifest"
    teacher = teacher_for(classifier, out, events)
    name = architecture_of(teacher.network)
    pruned = pruned_copy(library, teacher.network, teacher.preprocess, pruning.ratio)
    ready = prepare(teacher, inputs, plain, prior, out, comparison, stored, events)

    def measured(network: nn.Module, keep: Path | None = None) -> dict[str, float | None]:
        return ready.measured(reading(network, teacher.preprocess), teacher.device, keep)

    def run(images: Images, seed: int, place: Path, advance: Advance) -> dict[str, Any]:
        network = copy.deepcopy(pruned)
        teach(network, teacher.preprocess, ready.ask, images, distillation, seed, advance)
        measures = measured(network, place)
        keep_student(place, network, name, teacher, seed=seed, ratio=pruning.ratio, **measures)
        return measures

    request = {
        "classifier": teacher.describe(),
        "pruning": asdict(pruning),
        "distillation": asdict(distillation),
    }
    report = compare("prune", out, ready.sets, comparison.seeds, request, run, events)
    before, after = (size_of(network, teacher.preprocess) for network in (teacher.network, pruned))
    kept = {f"{key}_kept": after[key] / before[key] for key in after}
    report |= {
        "folder": str(inputs.folder),
        "teacher": ready.measured_teacher() | before,
        "network": measured(pruned) | after | kept,
    }
    write_report(out, report)
    return report


def pruned_copy(
    library: ModuleType, network: nn.Module, preprocess: Preprocess, ratio: float
) -> nn.Module:
    """A copy in float32 without the share `ratio` of the channels of each layer that may lose some, the least first."""
    network = copy.deepcopy(network).float().eval().requires_grad_(True)
    example = torch.zeros(1, 3, *preprocess.crop, device=next(network.parameters()).device)
    with torch.enable_grad():  # the library reads which layers hang together off autograd's graph
        graph = library.DependencyGraph().build_dependency(
            network, example, output_transform=lambda output: getattr(output, "logits", output)
        )
        inner = inner_layers(graph, network)
        if not inner:
            raise ModelError(
                f"no layer of {type(network).__name__} can be pruned, expected convolutions whose width no shortcut "
                "and no class fixes: distil it into a smaller network."
            )
        for name, layer in inner.items():
            if int(len(layer.weight) * (1 - ratio)) < 1:
                raise ConfigError(
                    f"pruning ratio {ratio} leaves nothing of the {len(layer.weight)} channels of {name}, expected one "
                    "at least: lower the ratio."
                )
        importance = library.importance.MagnitudeImportance(
            p=1, group_reduction="first", normalizer=None
        )
        chosen = set(inner.values())
        library.pruner.MagnitudePruner(
            network,
            example,
            importance,
            pruning_ratio=ratio,
            ignored_layers=[
                part
                for part in network.modules()
                if isinstance(part, LAYERS) and part not in chosen
            ],
            output_transform=lambda output: getattr(output, "logits", output),
        ).step()
    return network.requires_grad_(False)


def inner_layers(graph: Any, network: nn.Module) -> dict[str, Any]:
    """Layers by name whose channels no other layer's are added to, and which another reads (so not the class scores).

    A depthwise convolution makes no channels of its own: it is pruned with the layer before it.
    """
    names = {layer: name for name, layer in network.named_modules()}
    found: dict[str, Any] = {}
    for group in graph.get_all_groups(root_module_types=list(LAYERS)):
        makers = {
            names[part.target.module]: part.target.module
            for part, _ in group
            if isinstance(part.target.module, LAYERS)
            and graph.is_out_channel_pruning_fn(part.handler)
            and not _is_depthwise(part.target.module)
        }
        readers = [
            part
            for part, _ in group
            if isinstance(part.target.module, LAYERS)
            and graph.is_in_channel_pruning_fn(part.handler)
        ]
        if len(makers) == 1 and readers:
            found |= makers
    return found


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1


def pruning_library() -> ModuleType:
    """torch-pruning. Raises MissingExtraError."""
    try:
        return import_module("torch_pruning")
    except ImportError as error:
        raise MissingExtraError(
            f"torch-pruning is not installed ({brief(error)}), expected it for pruning: run `pip install "
            "'ddis[downstream]'`."
        ) from error
