"""The part of the page that makes images: settings on the left, what becomes of them on the right."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.apps.studio.choices import FIRST, Offer, new_folder, offer_of, some_of
from engine.apps.studio.fields import fields
from engine.apps.studio.form import INVERSION, Form, rows_of
from engine.apps.studio.planned import plan_of, work_of
from engine.apps.studio.printed import line, printed, to_copy
from engine.apps.studio.session import Desk
from engine.apps.studio.stage import message, stage
from engine.errors import EngineError

TICK_S = 0.6
"""How often the page looks at a run that is going."""
NO_PLAN = '<p class="note">It is being planned.</p>'
BUSY = "A run is going on. Models are looked at once it is done: choose again then."
NUMBERS = ("images_per_class", "steps", "seed")
"""Fields of a form that are the command line's default where they are left empty."""
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
"""How events are connected: no spinner over what changes all the time, and nothing for other programs."""


class MakeTab:
    """Components of the tab, and what they do. place: where new folders are."""

    def __init__(self, gr: Any, desk: Desk, place: Path) -> None:
        self.gr, self.desk, self.place = gr, desk, place
        self.begun: tuple[Form, Offer] | None = None
        first = Form(classifier=FIRST, out=new_folder(place))
        offer = offer_of(first)
        first = replace(first, classes=tuple(offer.few), tokens=offer.tokens)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=330):
                self.fields = fields(gr, first, offer)
                with gr.Row():
                    self.start = gr.Button("Start", variant="primary", elem_id="start")
                    self.stop = gr.Button("Stop", interactive=desk.going, elem_id="stop")
                    self.fresh = gr.Button("New folder", elem_id="fresh", min_width=110)
            with gr.Column(scale=3, min_width=330):
                self.stage = gr.HTML(stage(desk.session), elem_classes="studio", elem_id="stage")
                self.command = gr.HTML(_command(first, offer), elem_classes="studio")
                self.need = gr.HTML("", elem_classes="studio", elem_id="need")
                with gr.Accordion("Plan of the memory", open=False, elem_id="planning"):
                    self.plan = gr.HTML(NO_PLAN, elem_classes="studio", elem_id="plan")
        self.offered = gr.State(offer)
        self.timer = gr.Timer(TICK_S, active=desk.going)
        self.shown = [self.stage, self.start, self.stop, self.timer]
        self._connect()

    def _connect(self) -> None:
        gr, inputs = self.gr, [*self.fields.values()]
        latest = {"trigger_mode": "always_last", **QUIET}
        changes = [component.change for component in inputs]
        gr.on(changes, self._command, [self.offered, *inputs], self.command, **latest)
        offered = [self.offered, self.fields["classes"], self.fields["tokens"]]
        known = [self.offered, *inputs]
        self.fields["classifier"].change(self._classifier, known, offered, **latest)
        self.fields["way"].change(
            lambda way: (
                gr.Dropdown(visible=way == INVERSION),
                gr.Number(visible=way != INVERSION),
            ),
            self.fields["way"],
            [self.fields["inversion"], self.fields["steps"]],
            **QUIET,
        )
        self.fresh.click(lambda: new_folder(self.place), None, self.fields["out"], **QUIET)
        chosen = [self.fields[name].change for name in ("classifier", "way")]
        typed = [self.fields[name] for name in ("prior", "memory", "more")]
        left = [event for one in typed for event in (one.blur, one.submit)]
        self.planning = [self.need, self.plan]
        gr.on([*chosen, *left], self.look_ahead, inputs, self.planning, **latest)
        self.start.click(self._start, known, self.shown, **QUIET)
        self.stop.click(self._stop, None, self.shown, **QUIET)
        self.timer.tick(self.look, None, self.shown, **QUIET)

    def look(self) -> tuple[Any, ...]:
        """What the page shows now: the runs, both buttons, and whether to look again."""
        gr, session, going = self.gr, self.desk.session, self.desk.going
        again = session is not None and not going and not session.done
        return (
            stage(session),
            gr.Button("Resume" if again else "Start", interactive=not going),
            gr.Button(interactive=going),
            gr.Timer(active=going),
        )

    def restore(self) -> list[Any]:
        """What was chosen for the latest run and what its classifier offers, for a page that is loaded again."""
        gr = self.gr
        if self.begun is None:
            return [gr.skip()] * (1 + len(self.fields))
        form, offer = self.begun
        chosen = vars(form) | {
            "classes": gr.Dropdown(choices=[*offer.labels], value=[*form.classes]),
            "inversion": gr.Dropdown(value=form.inversion, visible=form.way == INVERSION),
            "steps": gr.Number(value=form.steps, visible=form.way != INVERSION),
        }
        return [offer, *(chosen[name] for name in self.fields)]

    def _start(self, offer: Offer, *values: Any) -> tuple[Any, ...]:
        form = self._form(values)
        try:
            self.desk.begin(rows_of(form))
            self.begun = form, offer
        except EngineError as error:
            _, *others = self.look()
            return message(str(error)) + stage(self.desk.session), *others
        return self.look()

    def _stop(self) -> tuple[Any, ...]:
        if self.desk.session is not None:
            self.desk.session.stop()
        return self.look()

    def _command(self, offer: Offer, *values: Any) -> str:
        return _command(self._form(values), offer)

    def _classifier(self, offer: Offer, *values: Any) -> tuple[Any, ...]:
        """What another classifier comes with; nothing where it does not load, which looking ahead says."""
        gr, form = self.gr, self._form(values)
        if offer.classifier == form.classifier:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            with self.desk.alone():
                offer = offer_of(form)
        except EngineError:
            return gr.skip(), gr.skip(), gr.skip()
        few = some_of(offer.labels, form.classes)
        return offer, gr.Dropdown(choices=[*offer.labels], value=few), offer.tokens

    def look_ahead(self, *values: Any) -> tuple[str, str]:
        """What the last of the runs takes of memory: in a line, and as `ddis plan` says it."""
        if self.desk.going:
            return line(BUSY), ""
        try:
            with self.desk.alone():
                planned = plan_of(rows_of(self._form(values))[-1])
        except EngineError as error:
            return message(str(error)), ""
        return line(planned.need), printed(planned.parts)

    def _form(self, values: Sequence[Any]) -> Form:
        """The form that the components hold."""
        named = dict(zip(self.fields, values, strict=True))
        texts = {name: "" for name, value in named.items() if value is None and name not in NUMBERS}
        return Form(**{**named, **texts, "classes": tuple(named["classes"] or ())})


def _command(form: Form, offer: Offer) -> str:
    """The runs as commands to copy, with what they will compute; or what is wrong with them."""

    def said() -> str:
        rows = rows_of(form)
        work = work_of([row.command() for row in rows], len(offer.labels))
        return to_copy([row.command_line for row in rows], work)

    return _or_error(said)


def _or_error(said: Callable[[], str]) -> str:
    """HTML, or the three parts of the error that came instead."""
    try:
        return said()
    except EngineError as error:
        return message(str(error))
