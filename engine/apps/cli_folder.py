"""The folder that is compared, made first where `--images-per-class` asks, and the plain prior's row beside it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.apps.options import PRESETS, add_fields, alignment_of, config_of
from engine.apps.progress import Progress
from engine.errors import ConfigError
from engine.settings import Alignment, Sampling

GENERATE, NONE = "generate", "none"
DRAWING = ("tokens", "alignment", "alignment-scale", "steps", "cfg", "generate_seed")
"""Options of a folder that is made first; without it they would have no effect."""


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The folder's options, and those of one that is made first."""
    parser.add_argument(
        "folder",
        type=Path,
        help="a finished folder of `ddis generate`, or with --images-per-class one to be made",
    )
    first = parser.add_argument_group("a folder that is made first")
    first.add_argument(
        "--images-per-class",
        type=int,
        metavar="N",
        help="generate the folder first, with N images of "
        "each class and as these options say; continued if it was cut",
    )
    first.add_argument(
        "--tokens",
        type=Path,
        default=argparse.SUPPRESS,
        help="learned class tokens, a file of `ddis learn-tokens`",
    )
    first.add_argument(
        "--alignment",
        choices=PRESETS,
        default=argparse.SUPPRESS,
        help="guidance as of `ddis generate` (default: default)",
    )
    add_fields(first, Alignment(), "alignment-", only=("scale",))
    add_fields(first, Sampling(), "", only=("steps", "cfg"))
    first.add_argument(
        "--generate-seed",
        type=int,
        default=argparse.SUPPRESS,
        help="seed of its images (default: 0)",
    )
    plain = parser.add_argument_group("the row of the plain prior")
    plain.add_argument(
        "--plain",
        metavar="SOURCE",
        help="a folder of `ddis generate --method plain`; generate: draw "
        "one as the folder was drawn; none: no such row (default: generate, where the folder's prior "
        "is there)",
    )
    plain.add_argument(
        "--no-plain", dest="plain", action="store_const", const=NONE, help="as --plain none"
    )
    plain.add_argument(
        "--prior",
        help="what draws plain images and a folder that is made first (default: the prior "
        "that drew the folder; embedded for one that is made)",
    )


def check_effects(chosen: argparse.Namespace) -> None:
    """Raise ConfigError for an option that nothing would read."""
    made = chosen.images_per_class is not None
    unread = [] if made else [name for name in DRAWING if hasattr(chosen, name)]
    wanting = (
        "without --images-per-class",
        "it: a folder that is there was made with its own settings",
    )
    if (
        not unread
        and chosen.prior is not None
        and not made
        and chosen.plain not in (None, GENERATE)
    ):
        unread = ["prior"]
        wanting = (
            f"with --plain {chosen.plain}",
            "--plain generate or --images-per-class: nothing else is drawn",
        )
    if not unread and hasattr(chosen, "held_out") and chosen.test is not None:
        unread = ["held_out"]
        wanting = "with --test", "one of them: with test images nothing is held out"
    if unread:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise ConfigError(
            f"{options} came {wanting[0]}, expected {wanting[1]}. Leave {'it' if len(unread) == 1 else 'them'} out."
        )


def make_folder(
    chosen: argparse.Namespace,
    classifier: Any,
    check: Callable[[Any], object],
    progress: Progress,
) -> None:
    """Make the folder, or what is missing of it, once all that is compared with it has been looked at."""
    from engine.downstream.inputs import check_before_drawing
    from engine.downstream.sources import Inputs
    from engine.runners.generate import generate

    plain = None if chosen.plain in (None, GENERATE, NONE) else Path(chosen.plain)
    inputs = Inputs(
        folder=chosen.folder,
        original=chosen.original,
        plain=plain,
        test=chosen.test,
        domain=chosen.domain,
    )
    check_before_drawing(classifier, inputs, chosen.out, chosen.images_per_class)
    check(classifier)
    preset = getattr(chosen, "alignment", "default")
    sampling = config_of(chosen, Sampling.paper() if preset == "paper" else Sampling())
    alignment = alignment_of(argparse.Namespace(**vars(chosen) | {"alignment": preset}))
    with progress.watching() as events:
        images = generate(
            classifier,
            chosen.prior or "embedded",
            images_per_class=chosen.images_per_class,
            method="plain" if alignment is None else "ddis",
            tokens=getattr(chosen, "tokens", None),
            sampling=sampling,
            seed=getattr(chosen, "generate_seed", 0),
            alignment=alignment or Alignment(),
            out=chosen.folder,
            events=events,
        )
        for _ in images:
            pass


def plain_row(
    chosen: argparse.Namespace, classifier: Any, progress: Progress
) -> tuple[str | None, Any]:
    """Where the plain prior's images are, or 'generate', or None for no such row; and the prior that draws them."""
    from engine.downstream.inputs import prior_of
    from engine.downstream.origins import origins
    from engine.evaluation.images import has_manifest

    if chosen.plain == NONE:
        return None, "embedded"
    if chosen.plain is not None or (chosen.prior is not None and chosen.images_per_class is None):
        named = [made["prior"]["name"] for made in origins(chosen.folder) if "prior" in made]
        return chosen.plain or GENERATE, chosen.prior or next(iter(named), "embedded")
    if not has_manifest(chosen.folder):
        return None, "embedded"  # the comparison says what is wrong with the folder
    found = prior_of(chosen.folder, classifier.device)
    if isinstance(found, str):
        progress.say(
            f"no row of the plain prior for {chosen.folder}: {found}. --plain FOLDER gives one"
        )
        return None, "embedded"
    return GENERATE, found
