"""Options that studies have in common."""

from argparse import ArgumentParser
from collections.abc import Iterable


def several(parser: ArgumentParser, name: str, known: Iterable[str], about: str = "") -> None:
    """An option that takes some of the known names, and is all of them where it is not given."""
    names = list(known)
    parser.add_argument(
        name,
        nargs="+",
        choices=names,
        default=names,
        metavar=name.removeprefix("--").removesuffix("s").upper(),
        help=f"{about}{', ' * bool(about)}some of: {'; '.join(names)}".replace("%", "%%"),
    )
