"""The part of the page that compares two folders."""

from pathlib import Path
from typing import Any

from engine.apps.studio.compare import PAIRS, compared
from engine.apps.studio.fields import data_set
from engine.apps.studio.stage import message
from engine.errors import EngineError
from engine.report.reading import dataset_overview

NO_FOLDERS = (
    '<div class="empty"><p class="lead">Two folders side by side</p><p>Images of the same class and number stand '
    "together: with equal seeds, what the settings changed.</p></div>"
)


class CompareTab:
    """Components of the tab, and what they do."""

    def __init__(self, gr: Any) -> None:
        with gr.Row(equal_height=False):
            self.one = data_set(gr, "One folder", "one", scale=2)
            self.other = data_set(gr, "Another", "other", scale=2)
            button = gr.Button("Compare", variant="primary", elem_id="compare", elem_classes="go")
        shown = gr.HTML(NO_FOLDERS, elem_classes="studio", elem_id="compared")
        button.click(self._compare, [self.one, self.other], shown, api_visibility="private")

    def _compare(self, one: str | None, other: str | None) -> str:
        try:
            first, second = (
                dataset_overview(Path((folder or "").strip()).expanduser(), PAIRS)
                for folder in (one, other)
            )
        except EngineError as error:
            return message(str(error))
        return compared(first, second)
