"""Tables of Markdown, and the places in a page where they belong."""

import re
from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def signed(value: float, decimals: int) -> str:
    """A difference with its sign; one that rounds to zero has none."""
    shown = f"{value:+z.{decimals}f}"
    return shown if float(shown) else shown.removeprefix("+")


def fill(text: str, name: str, made: str) -> str:
    """`text` with what stands between the markers of one table, if only nothing, replaced."""
    pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
    filled, times = re.subn(
        pattern, lambda found: f"{found[1]}{made}\n{found[2]}", text, flags=re.DOTALL
    )
    if times != 1:
        raise ValueError(
            f"there are {times} tables {name!r} in the text, expected the markers of one"
        )
    return filled


def fill_all(texts: Mapping[str, str], tables: Mapping[str, str]) -> dict[str, str]:
    """Pages by name, with each table filled in wherever it has its markers; a table that has none raises ValueError."""
    filled = dict(texts)
    for name, made in tables.items():
        places = [page for page, text in filled.items() if f"<!-- table:{name} -->" in text]
        for page in places or list(filled)[:1]:
            filled[page] = fill(filled[page], name, made)
    return filled
