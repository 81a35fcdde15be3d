"""A hook of mkdocs: puts the scripts of examples/ on their page."""

from pathlib import Path
from typing import Any

PAGE = "examples.md"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of the examples with each script behind it; other pages as they are."""
    if page.file.src_uri != PAGE:
        return markdown
    scripts = sorted(EXAMPLES.glob("*.py"))
    return markdown + "".join(
        f"\n## {script.name}\n\n```python\n{script.read_text().strip()}\n```\n"
        for script in scripts
    )
