"""Command-line options made from the configs' fields, and configs made from the options that were given."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from engine.errors import ConfigError
from engine.methods.registry import BASELINES, DDIS, PLAIN, settings_of
from engine.settings import AUTO_ATTENTION, DTYPES, Alignment, Sampling, TokenLearning
from engine.settings.inversion import InversionSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
PRESETS: dict[str, Callable[[], Alignment | None]] = {
    "default": Alignment,
    "paper": Alignment.paper,
    "none": lambda: None,
}
LEARNING_PRESETS = {"default": TokenLearning, "paper": TokenLearning.paper}


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classifier",
        required=True,
        help="embedded:<domain>, hf:<id or folder>, timm:<name>, "
        "torchvision:<name>, onnx:<file>, arch:<resnet18, 34, 50>, or a checkpoint file with "
        "--architecture",
    )
    parser.add_argument("--architecture", help="network of a checkpoint file, such as resnet20")
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="class names in the order of the outputs"
    )
    parser.add_argument(
        "--prior",
        default="embedded",
        help="embedded, a diffusers folder, a hub id, or for random "
        "weights arch:<sd-1.5, sd-2.1-base, sd-2.1>",
    )
    parser.add_argument("--variant", help="which weight files of the prior, such as fp16")
    parser.add_argument("--revision", help="branch, tag or commit of the prior on the hub")
    tiny = "an AutoencoderTiny that guidance sees through: folder or hub id such as madebyollin/taesd; 'none' for none"
    parser.add_argument(
        "--tiny-decoder",
        metavar="SOURCE",
        help=f"{tiny} (default: one in the prior's folder, or its vae if that is tiny)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the networks; what is computed between "
        "them is float32 (default: float32; auto: float16 on a GPU)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")


def add_request(parser: argparse.ArgumentParser) -> None:
    """What a run that makes images is asked for, beside its models."""
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="only these of the labels (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        default="auto",
        help="what the run may take: 12GB, 11.5GiB, bytes, or auto for "
        "all that is free (default: auto)",
    )
    parser.add_argument(
        "--attention",
        choices=(AUTO_ATTENTION, "sdpa", "xformers"),
        default=AUTO_ATTENTION,
        help="what computes attention; auto: xformers on CUDA where it is installed and no slower "
        "(default: auto)",
    )


def add_graphs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-graphs",
        action="store_true",
        help="launch every kernel of UNet and guidance by itself; "
        "on CUDA they are else replayed from graphs where there is room for these",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime",
        choices=("torch", "onnx"),
        default="torch",
        help="what computes the networks; onnx: ONNX Runtime, without autograd (default: torch)",
    )
    parser.add_argument(
        "--onnx-cache",
        type=Path,
        metavar="FOLDER",
        help="where exported graphs are kept, as `ddis "
        "export-onnx` writes them (default: ddis/onnx in the user's cache folder)",
    )


def add_alignment(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("domain alignment guidance (DAG)")
    presets = "default: ours; paper: DDIS as published, with its sampling; none: the plain prior"
    group.add_argument("--alignment", choices=PRESETS, default="default", help=presets)
    add_fields(group, Alignment(), "alignment-")


def add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("class alignment tokens (CAT)")
    presets = "default: ours; paper: DDIS as published"
    group.add_argument("--learning", choices=LEARNING_PRESETS, default="default", help=presets)
    add_fields(group, TokenLearning(), "learning-")


def add_config(
    parser: argparse.ArgumentParser,
    config: Any,
    prefix: str = "",
    only: Sequence[str] | None = None,
) -> None:
    title = (type(config).__doc__ or "").split("\n")[0].rstrip(".")
    add_fields(parser.add_argument_group(title), config, prefix, only)


def add_fields(group: Any, config: Any, prefix: str, only: Sequence[str] | None = None) -> None:
    """One option for each field of a config, or for some. Those that are not given leave no trace in the namespace."""
    hints = get_type_hints(type(config))
    for entry in fields(config):
        if only is not None and entry.name not in only:
            continue
        name, value, hint = (
            f"--{prefix}{entry.name.replace('_', '-')}",
            getattr(config, entry.name),
            hints[entry.name],
        )
        text = f"{entry.metadata['help']} (default: {value})".replace("%", "%%")
        kind: dict[str, Any] = {"type": hint, "metavar": entry.name.upper()}
        if get_origin(hint) is Literal:
            kind = {"choices": get_args(hint)}
        elif hint is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            name, dest=f"{prefix}{entry.name}", default=argparse.SUPPRESS, help=text, **kind
        )


def config_of(chosen: argparse.Namespace, base: Config, prefix: str = "") -> Config:
    """`base` with the fields that were given on the command line."""
    given = {entry.name: f"{prefix}{entry.name}" for entry in fields(base)}
    return replace(
        base, **{name: getattr(chosen, key) for name, key in given.items() if hasattr(chosen, key)}
    )


def sampling_of(chosen: argparse.Namespace) -> Sampling:
    """The sampling options over the defaults, which are the paper's where its alignment is asked for."""
    return config_of(chosen, Sampling.paper() if chosen.alignment == "paper" else Sampling())


def learning_of(chosen: argparse.Namespace) -> TokenLearning:
    """The options of token learning over their preset. `--steps` alone is the number of steps of learning as well.

    Raises ConfigError where it came with another number for learning, which would leave it without effect.
    """
    learning = config_of(chosen, LEARNING_PRESETS[chosen.learning](), "learning-")
    if not hasattr(chosen, "steps"):
        return learning
    if hasattr(chosen, "learning-steps") and learning.steps not in (0, chosen.steps):
        raise ConfigError(
            f"--steps {chosen.steps} came with --learning-steps {learning.steps}, expected one of them: tokens are "
            "learned with the latter alone. Leave --steps out."
        )
    return replace(learning, steps=0)


def alignment_of(chosen: argparse.Namespace) -> Alignment | None:
    if getattr(chosen, "method", DDIS) == PLAIN:
        return None
    preset = PRESETS[chosen.alignment]()
    given = [
        entry.name for entry in fields(Alignment) if hasattr(chosen, f"alignment-{entry.name}")
    ]
    if preset is None and given:
        raise ConfigError(
            f"--alignment none came with --alignment-{given[0].replace('_', '-')}, expected one or the other: the "
            "plain prior has no guidance to set. Leave one of them out."
        )
    return None if preset is None else config_of(chosen, preset, "alignment-")


def add_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        choices=(DDIS, PLAIN, *BASELINES),
        default=DDIS,
        help="how images are made; plain: "
        "the prior without alignment and tokens; the others need no prior, and take their own options "
        "alone (default: ddis)",
    )
    parser.add_argument(
        "--student", help="a classifier of the same classes, for deepinversion's competition"
    )
    parser.add_argument(
        "--student-architecture", help="network of a student that is a checkpoint file"
    )
    for settings in BASELINES.values():
        add_config(parser, settings(), f"{settings.name}-")


def method_of(chosen: argparse.Namespace, classifier: Any) -> InversionSettings:
    """The settings of the chosen baseline: the defaults for the classifier's images, with the options given."""
    return config_of(chosen, settings_of(chosen.method, classifier), f"{chosen.method}-")


def check_methods(chosen: argparse.Namespace) -> None:
    """Raise ConfigError for an option of another method than the chosen one."""
    given = set(vars(chosen))
    wrong = {
        key
        for name in BASELINES
        if name != chosen.method
        for key in given
        if key.startswith(f"{name}-")
    }
    guided = {key for key in given if key.startswith("alignment-")}
    if chosen.method == PLAIN:
        wrong |= guided | ({"alignment"} if chosen.alignment == "paper" else set())
        wrong |= {"tokens"} if chosen.tokens is not None else set()
    elif chosen.method != DDIS:
        unused = {
            "prior": "embedded",
            "alignment": "default",
            "memory": "auto",
            "runtime": "torch",
            "tokens": None,
            "variant": None,
            "revision": None,
            "tiny_decoder": None,
            "onnx_cache": None,
            "attention": AUTO_ATTENTION,
            "no_graphs": False,
        }
        wrong |= {key for key, default in unused.items() if getattr(chosen, key) != default}
        wrong |= guided | ({entry.name for entry in fields(Sampling)} & given)
    if chosen.method in (DDIS, PLAIN) and chosen.student is not None:
        wrong.add("student")
    if chosen.student_architecture is not None and chosen.student is None:
        wrong.add("student_architecture")
    if wrong:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(wrong))
        raise ConfigError(
            f"{options} came with --method {chosen.method}, expected that method's own options: leave "
            f"{'it' if len(wrong) == 1 else 'them'} out, or choose the method that has "
            f"{'it' if len(wrong) == 1 else 'them'}."
        )


def load_models(chosen: argparse.Namespace) -> tuple[Any, Any]:
    """The classifier and the prior that the options name."""
    from engine.models import load_prior

    classifier = load_teacher(chosen)
    prior = load_prior(
        chosen.prior,
        variant=chosen.variant,
        revision=chosen.revision,
        device=chosen.device,
        dtype=chosen.dtype,
        tiny=chosen.tiny_decoder,
    )
    return classifier, prior


def load_teacher(chosen: argparse.Namespace) -> Any:
    """The classifier that the options name."""
    from engine.classifiers import load_classifier

    return load_classifier(
        chosen.classifier,
        architecture=chosen.architecture,
        labels=chosen.labels,
        device=chosen.device,
        dtype=chosen.dtype,
    )


def load_student(chosen: argparse.Namespace, classifier: Any) -> Any:
    """The student that the options name, of the classifier's classes; None where they name none."""
    from engine.classifiers import load_classifier

    if chosen.student is None:
        return None
    return load_classifier(
        chosen.student,
        architecture=chosen.student_architecture,
        labels=classifier.labels,
        device=chosen.device,
        dtype=chosen.dtype,
    )
