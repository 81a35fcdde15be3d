"""What commands print, as HTML: tables and lines of a plan, and a command to copy."""

from collections.abc import Sequence
from html import escape

from engine.apps.studio.planned import Table


def printed(parts: Sequence[str | Table]) -> str:
    """Lines and tables in their order."""
    return "".join(
        table(part.columns, part.rows, part.title) if isinstance(part, Table) else _lines(part)
        for part in parts
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A table with a caption; first column to the left, figures to the right."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return (
        f'<div class="scroll"><table class="facts">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def to_copy(lines: Sequence[str], work: str) -> str:
    """Commands with a button that copies them, and a line on what they will compute."""
    code = "".join(f"<code>{escape(one)}</code>" for one in lines)
    return (
        f'{line(work)}<div class="command"><pre>{code}</pre>'
        f'<button type="button" data-copy="{escape(chr(10).join(lines))}">Copy</button></div>'
    )


def line(text: str) -> str:
    """A line that says what a run takes."""
    return f'<p class="work">{escape(text)}</p>'


def _lines(text: str) -> str:
    return "".join(f'<p class="note">{escape(line)}</p>' for line in text.splitlines())
