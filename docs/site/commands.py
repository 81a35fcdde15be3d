"""A hook of mkdocs: fills the page of the commands with what each says of itself."""

import io
from contextlib import redirect_stdout
from typing import Any

PAGE = "commands.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of the commands with the help of each behind it; other pages as they are."""
    if page.file.src_uri != PAGE:
        return markdown
    from engine.apps.cli.registry import COMMANDS

    return markdown + "".join(f"\n## {name}\n\n```text\n{_help(name)}\n```\n" for name in COMMANDS)


def _help(name: str) -> str:
    """What `ddis NAME --help-all` prints."""
    from engine.apps.cli import main

    printed = io.StringIO()
    with redirect_stdout(printed):
        main([*name.split(), "--help-all"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
