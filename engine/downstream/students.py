"""Students: built by name or given as they are, and kept so that they can be loaded again."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, save_classifier
from engine.classifiers.architectures import ARCHITECTURES
from engine.classifiers.outputs import logits_of
from engine.classifiers.untrained import DIVISORS, base_architecture, is_architecture, untrained
from engine.errors import ConfigError, ModelError
from engine.files import write_whole
from engine.memory.count import counting
from engine.networks.frozen import fingerprint

WEIGHTS = "model.safetensors"
SMALL_PX = 64


def default_student(teacher: Classifier) -> str:
    """resnet14 for small images; for others a resnet18, as wide as leaves it smaller than the teacher."""
    if teacher.input_px <= SMALL_PX:
        return "resnet14"
    name, size = "resnet18", parameters(teacher.network) or numbers(teacher.network)
    for divisor in DIVISORS:
        with torch.device("meta"):
            if parameters(untrained(name, len(teacher.labels))) < size:
                break
        name = f"resnet18/{divisor}"
    return name


def student_name(student: str | nn.Module | None, teacher: Classifier) -> str:
    """The architecture that was asked for, without 'arch:'; of a module, its class. Raises ConfigError."""
    if isinstance(student, nn.Module):
        return type(student).__name__
    name = (student or default_student(teacher)).removeprefix("arch:")
    if not is_architecture(name):
        raise ConfigError(
            f"student is {student!r}, expected one of {', '.join(ARCHITECTURES)}, or one of them with "
            f"{', '.join(f'/{divisor}' for divisor in DIVISORS)} behind, which divides its widths: choose one of "
            "these, or in Python pass an nn.Module."
        )
    return name


def new_student(student: str | nn.Module, teacher: Classifier, seed: int) -> nn.Module:
    """A student on the teacher's device. A name is drawn from the seed; a module is copied, its weights the start."""
    if isinstance(student, nn.Module):
        network = copy.deepcopy(student).float()
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = untrained(student, len(teacher.labels))
    network = network.to(teacher.device)
    outputs = _outputs(network, teacher)
    if outputs != len(teacher.labels):
        raise ModelError(
            f"the student gives {outputs} scores, expected {len(teacher.labels)}, one for each class of "
            f"{teacher.name!r}: give it that many outputs."
        )
    return network


def identity(student: str | nn.Module) -> str:
    """What tells a student from another in a request: its name, and the first weights of a module."""
    return (
        student
        if isinstance(student, str)
        else f"{type(student).__name__} {fingerprint([student], str(student))}"
    )


def keep_student(
    folder: Path,
    network: nn.Module,
    architecture: str | None,
    teacher: Classifier,
    **facts: object,
) -> None:
    """Write a network for `load_classifier(folder)`; one of no known architecture as weights alone, for its class.

    It has the labels of its teacher and reads images as that does.
    """
    if architecture is not None:
        save_classifier(
            folder,
            network,
            architecture=base_architecture(architecture),
            labels=teacher.labels,
            preprocess=teacher.preprocess,
            teacher=teacher.name,
            **facts,
        )
        return
    # The library writes under a name alone, piece by piece.
    with TemporaryDirectory(prefix="ddis-student-") as scratch:
        file = Path(scratch) / WEIGHTS
        save_model(network, str(file))
        write_whole(folder / WEIGHTS, file.read_bytes())


def size_of(network: nn.Module, preprocess: Preprocess) -> dict[str, Any]:
    """Parameters, and the FLOPs of one image (a product and a sum are two)."""
    with torch.no_grad(), counting() as count:
        logits_of(network, _zeros(network, preprocess))
    return {"parameters": parameters(network), "flops": count.flops}


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def numbers(network: nn.Module) -> int:
    """All that a network holds: one from ONNX has its weights among its buffers."""
    return sum(value.numel() for value in network.state_dict().values())


def _outputs(network: nn.Module, teacher: Classifier) -> int:
    network.eval()
    try:
        with torch.no_grad():
            return logits_of(network, _zeros(network, teacher.preprocess)).shape[1]
    except RuntimeError as error:
        raise ModelError(
            f"the student cannot read images of {teacher.preprocess.crop} pixels ({error}), expected a network of "
            "the teacher's input size: choose another architecture."
        ) from error


def _zeros(network: nn.Module, preprocess: Preprocess) -> Tensor:
    return torch.zeros(1, 3, *preprocess.crop, device=next(network.parameters()).device)
