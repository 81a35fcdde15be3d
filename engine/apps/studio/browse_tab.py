"""The part of the page that looks through a folder, drops images and exports the rest."""

from dataclasses import dataclass, field, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, get_args, get_type_hints

from engine.apps.studio.browse import (
    ORDERS,
    PAGE,
    SHOWING,
    Entry,
    Filter,
    Opened,
    filtered,
    grid,
    opened,
)
from engine.apps.studio.fields import data_set
from engine.apps.studio.session import Desk
from engine.apps.studio.stage import message
from engine.errors import EngineError, counted
from engine.evaluation.select import chosen, select_by_hand
from engine.image_key import ImageKey
from engine.settings.selection import Selection

PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
CLICKED = """
element.addEventListener("click", (event) => {
  const tile = event.target.closest("[data-key]");
  if (tile) trigger("click", { key: tile.dataset.key });
});
"""
NO_FOLDER = (
    '<div class="empty"><p class="lead">No folder is open</p><p>Choose a finished one above, or type its '
    "path.</p></div>"
)


@dataclass(frozen=True)
class Choice:
    """What one page has open. page: from 0."""

    found: Opened | None = None
    dropped: frozenset[ImageKey] = field(default_factory=frozenset)
    page: int = 0

    @property
    def kept(self) -> list[ImageKey]:
        entries = self.found.entries if self.found else ()
        return [entry.key for entry in entries if entry.key not in self.dropped]


class BrowseTab:
    """Components of the tab, and what they do."""

    def __init__(self, gr: Any, desk: Desk) -> None:
        self.gr, self.desk = gr, desk
        self.choice = gr.State(Choice())
        with gr.Row(equal_height=False):
            self.folder = data_set(
                gr, "Folder", "browsed", info="A finished one of ddis generate", scale=4
            )
            self.open = gr.Button("Open", variant="primary", elem_id="open", elem_classes="go")
        self.said = gr.HTML("", elem_classes="studio", elem_id="browse-said")
        with gr.Row():
            self.filters = {
                "classes": gr.Dropdown([], multiselect=True, label="Classes", elem_id="only"),
                "confidence": gr.Slider(
                    0, 100, 0, step=1, label="Confidence ≥", elem_id="confidence"
                ),
                "l_bn": gr.Slider(0, 1, 1, step=1, label="L_BN ≤", elem_id="l-bn"),
                "showing": gr.Dropdown([*SHOWING], value=SHOWING[0], label="Show"),
                "order": gr.Dropdown([*ORDERS], value=next(iter(ORDERS)), label="Order"),
            }
        with gr.Row(elem_classes="toolbar"):
            self.drop = gr.Button("Drop what is shown", size="sm", elem_id="drop-shown")
            self.take = gr.Button("Keep what is shown", size="sm", elem_id="keep-shown")
            self.back = gr.Button("Page back", size="sm", visible=False)
            self.on = gr.Button("Page on", size="sm", visible=False, elem_id="on")
        self.count = gr.HTML("", elem_classes="studio", elem_id="count")
        self.grid = gr.HTML(NO_FOLDER, elem_classes="studio", elem_id="grid", js_on_load=CLICKED)
        with gr.Accordion("Let the classifier choose", open=False):
            with gr.Row():
                self.keep = gr.Slider(1, 100, 50, step=1, label="Keep of each class (%)")
                self.by = gr.Dropdown(
                    [*get_args(get_type_hints(Selection)["by"])],
                    value=Selection().by,
                    label="By",
                    info="As ddis select: what makes the classifier's statistics of all fit best",
                )
            self.choose = gr.Button("Choose", size="sm")
        with gr.Row(equal_height=False):
            self.out = gr.Textbox(
                label="Export to", info="A new folder", scale=4, elem_id="exported"
            )
            self.export = gr.Button(
                "Export", variant="primary", elem_id="export", elem_classes="go"
            )
        self._connect()

    def _connect(self) -> None:
        gr, wanted = self.gr, [*self.filters.values()]
        seen = [self.choice, self.grid, self.count, self.back, self.on]
        inputs = [self.choice, *wanted]
        opening = [*seen, self.said, *wanted, self.out]
        gr.on([self.open.click, self.folder.select], self._open, self.folder, opening, **PRIVATE)
        changes = [component.change for component in wanted]
        gr.on(changes, self._filtered, inputs, seen, trigger_mode="always_last", **QUIET)

        def clicked(event: gr.EventData, choice: Choice, *values: Any) -> tuple[Any, ...]:  # type: ignore[name-defined]
            key = ImageKey(*map(int, event.key.split(".")))
            return self._seen(replace(choice, dropped=choice.dropped ^ {key}), values)

        self.grid.click(clicked, inputs, seen, trigger_mode="multiple", **QUIET)
        self.drop.click(self._drop, inputs, seen, **QUIET)
        self.take.click(self._take, inputs, seen, **QUIET)
        self.back.click(lambda choice, *v: self._turned(choice, -1, v), inputs, seen, **QUIET)
        self.on.click(lambda choice, *v: self._turned(choice, 1, v), inputs, seen, **QUIET)
        choosing = [*inputs, self.keep, self.by]
        self.choose.click(self._choose, choosing, [*seen, self.said], **PRIVATE)
        self.export.click(self._export, [self.choice, self.out], self.said, **PRIVATE)

    def _open(self, folder: str | None) -> tuple[Any, ...]:
        gr = self.gr
        try:
            found = opened((folder or "").strip())
        except EngineError as error:
            skipped = [gr.skip()] * (len(self.filters) + 1)
            return *self._seen(Choice(), ()), message(str(error)), *skipped
        top = max(1, ceil(found.highest_l_bn))
        cleared: tuple[Any, ...] = ([], 0, top, SHOWING[0], next(iter(ORDERS)))
        classes, confidence, l_bn, showing, order = cleared
        return (
            *self._seen(Choice(found), cleared),
            "",
            gr.Dropdown(choices=found.labels, value=classes),
            confidence,
            gr.Slider(maximum=top, value=l_bn),
            showing,
            order,
            f"{found.folder.rstrip('/')}-chosen",
        )

    def _filtered(self, choice: Choice, *values: Any) -> tuple[Any, ...]:
        return self._seen(replace(choice, page=0), values)

    def _turned(self, choice: Choice, by: int, values: Any) -> tuple[Any, ...]:
        return self._seen(replace(choice, page=choice.page + by), values)

    def _drop(self, choice: Choice, *values: Any) -> tuple[Any, ...]:
        keys = {entry.key for entry in _passing(choice, values)}
        return self._seen(replace(choice, dropped=choice.dropped | keys), values)

    def _take(self, choice: Choice, *values: Any) -> tuple[Any, ...]:
        keys = {entry.key for entry in _passing(choice, values)}
        return self._seen(replace(choice, dropped=choice.dropped - keys), values)

    def _seen(self, choice: Choice, values: Any) -> tuple[Any, ...]:
        """The choice with a page that there is, its images, how many there are, and the buttons to other pages."""
        gr, found = self.gr, choice.found
        if found is None:
            return choice, NO_FOLDER, "", gr.Button(visible=False), gr.Button(visible=False)
        passing = _passing(choice, values)
        pages = max(1, ceil(len(passing) / PAGE))
        choice = replace(choice, page=min(max(0, choice.page), pages - 1))
        where = f", page {choice.page + 1} of {pages}" if pages > 1 else ""
        total = len(found.entries)
        return (
            choice,
            grid(passing, choice.page, choice.dropped),
            f'<p class="note"><b>{len(choice.kept)} of {total} kept</b>, {len(passing)} shown{where}. A click drops an '
            "image or takes it back.</p>",
            gr.Button(visible=pages > 1, interactive=choice.page > 0),
            gr.Button(visible=pages > 1, interactive=choice.page < pages - 1),
        )

    def _choose(self, choice: Choice, *values: Any) -> tuple[Any, ...]:
        *wanted, keep, by = values
        found = choice.found
        if found is None:
            return *self._seen(choice, wanted), ""
        try:
            with self.desk.alone():
                kept = chosen(found.folder, Selection(keep=keep / 100, by=by))
        except EngineError as error:
            return *self._seen(choice, wanted), message(str(error))
        every = frozenset(entry.key for entry in found.entries)
        return *self._seen(replace(choice, dropped=every - set(kept)), wanted), ""

    def _export(self, choice: Choice, out: str) -> str:
        if choice.found is None or not out.strip():
            return message("No folder is open, or none is named to export to: name both.")
        try:
            report = select_by_hand(
                choice.found.folder, Path(out.strip()).expanduser(), choice.kept
            )
        except EngineError as error:
            return message(str(error))
        return message(
            f"{report['kept']} of {counted(report['images'], 'image')} are in {report['folder']}, a data set like any "
            f"other: ddis report {report['folder']}",
            "good",
        )


def _passing(choice: Choice, values: Any) -> list[Entry]:
    """The images that pass what the filters hold."""
    if choice.found is None:
        return []
    classes, confidence, l_bn, showing, order = values
    limit = inf if l_bn is None or l_bn >= ceil(choice.found.highest_l_bn) else l_bn
    wanted = Filter(
        classes=tuple(classes or ()),
        confidence=(confidence or 0) / 100,
        l_bn=limit,
        showing=showing,
        order=order,
    )
    return filtered(choice.found, wanted, choice.dropped)
