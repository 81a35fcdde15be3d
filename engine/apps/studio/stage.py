"""Runs as HTML while they go on: how far they are, their images, and the curve of L_BN."""

from collections.abc import Sequence
from html import escape
from statistics import fmean

from engine.apps.studio.chart import chart
from engine.apps.studio.pictures import PICTURES
from engine.apps.studio.session import Session
from engine.apps.studio.watch import Shot, Watch

MOST_COLUMNS = 16
"""Images of a row where several rows stand side by side."""
STATES = {
    "waiting": "waiting",
    "loading": "loading the models",
    "running": "running",
    "stopped": "stopped",
    "done": "done",
    "failed": "failed",
}
NOTHING_YET = (
    '<div class="empty"><p class="lead">No images yet</p><p>Press <b>Start</b>: as it is set, a few small images are '
    "drawn by the models that ship, with and without guidance.</p></div>"
)


def stage(session: Session | None) -> str:
    """All there is to see of the runs that were started."""
    if session is None:
        return NOTHING_YET
    watches = session.watches
    parts = [_status(session)]
    parts += [_error(watch) for watch in watches if watch.error and watch.state == "failed"]
    steps = max((watch.steps for watch in watches), default=0)
    curves = [(kind_of(watch.row.name), watch.row.name, watch.means) for watch in watches]
    measured = next((watch for watch in watches if watch.curve), watches[0])
    caption = "Mean L_BN of the previews" if measured.measures == "L_BN" else "Loss"
    pictures = _one(watches[0]) if len(watches) == 1 else _side_by_side(watches)
    parts.append(f'<div class="view">{pictures}{chart(curves, steps, caption)}</div>')
    notes = dict.fromkeys(note for watch in watches for note in watch.notes)
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return "".join(parts) + _printed(watches)


def kind_of(name: str) -> str:
    """The class in the style sheet of a way: `row-cat-dag`."""
    return "row-" + name.lower().replace(" + ", "-").replace(" ", "-")


def message(text: str, kind: str = "error") -> str:
    """A sentence in a box: the three parts of an error, or what went well."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="message {kind}" role="{role}">{escape(text)}</div>' if text else ""


def _status(session: Session) -> str:
    """The line above: state, images, step, and a bar."""
    watches = session.watches
    running = [watch for watch in watches if watch.state in ("loading", "running")]
    word = _state(session, running)
    total = sum(watch.total for watch in watches) or 1
    known = [watch for watch in watches if watch.total]
    whole = total * len(watches) / max(1, len(known))
    share = sum(_share(watch) * (watch.total or 0) for watch in watches) / whole
    said = []
    if running and len(watches) > 1:
        said.append(f"{running[0].row.name}, row {watches.index(running[0]) + 1} of {len(watches)}")
    if running and running[0].step:
        said.append(f"step {running[0].step} of {running[0].steps}")
    made = sum(watch.done for watch in watches)
    said.append(f"{made:g} image{'s' * (made != 1)} on the disk")
    return (
        f'<div class="status" data-state="{word}"><span class="pill {word}">'
        f"{escape(STATES.get(word, word))}</span><span>{escape(' · '.join(said))}</span></div>"
        f'<div class="bar"><div style="width:{100 * min(1, share):.1f}%"></div></div>'
    )


def _state(session: Session, running: Sequence[Watch]) -> str:
    """The state of all runs as one; between two of them, while models are still in use elsewhere, they wait."""
    states = {watch.state for watch in session.watches}
    if "failed" in states:
        return "failed"
    if states == {"done"}:
        return "done"
    if session.stopping:
        return "stopping"
    if running:
        return running[0].state
    return "waiting" if session.going else "stopped"


def _share(watch: Watch) -> float:
    """How much of a run is done, in [0, 1]."""
    if watch.state == "done":
        return 1.0
    if not watch.total:
        return 0.0
    going = (
        sum(not shot.made for shot in [*watch.shots.values()]) if watch.state == "running" else 0
    )
    part = going * watch.step / watch.steps if watch.steps else 0
    return min(1.0, (watch.done + part) / watch.total)


def _one(watch: Watch) -> str:
    tiles = "".join(tile(shot) for _, shot in sorted([*watch.shots.items()]))
    return f'<div class="lanes">{_figures(watch)}<div class="tiles">{tiles}</div></div>'


def _side_by_side(watches: Sequence[Watch]) -> str:
    """A row for each run; an image stands below those of the same seed.

    The shots are copied first: the run goes on while they are drawn.
    """
    known = [{**watch.shots} for watch in watches]
    labels = {key: shot.label for shots in known for key, shot in shots.items()}
    keys = sorted(labels)[:MOST_COLUMNS]
    rows = []
    for watch, shots in zip(watches, known, strict=True):
        cells = "".join(tile(shots.get(key) or Shot("", labels[key])) for key in keys)
        rows.append(
            f'<div class="lane" data-row="{escape(watch.row.name)}">{_figures(watch)}'
            f'<div class="tiles line">{cells}</div></div>'
        )
    return f'<div class="lanes">{"".join(rows)}</div>'


def _figures(watch: Watch) -> str:
    """The name of a run, and what its finished images have."""
    made = [shot for shot in [*watch.shots.values()] if shot.made and shot.confidence is not None]
    confidences = [shot.confidence for shot in made if shot.confidence is not None]
    distances = [s.l_bn for s in made if s.l_bn is not None and s.l_bn == s.l_bn]
    figures = []
    if confidences:
        figures.append(f"<span>confidence <b>{fmean(confidences):.0%}</b></span>")
    if distances:
        figures.append(f"<span>L_BN <b>{fmean(distances):.1f}</b></span>")
    state = "" if figures else f'<span class="quiet">{escape(STATES[watch.state])}</span>'
    name = f'<span class="key {kind_of(watch.row.name)}"></span>{escape(watch.row.name)}'
    return f'<div class="figures"><h3>{name}</h3>{"".join(figures)}{state}</div>'


def tile(shot: Shot) -> str:
    """One image with what is known of it. A finished one is asked for by name, once: this text is sent at each tick."""
    confidence = "" if shot.confidence is None else f"{shot.confidence:.0%}"
    place = f"{PICTURES}/{shot.name}" if shot.made else shot.src
    picture = f'<img src="{place}" alt="{escape(shot.label)}">' if shot.src else "<i></i>"
    kind = "made" if shot.made else "growing"
    return (
        f'<div class="tile {kind}">{picture}<span class="label">{escape(shot.label)}</span>'
        f"<span>{confidence}</span></div>"
    )


def _printed(watches: Sequence[Watch]) -> str:
    """What the commands said at their ends; folded where there are several."""
    said = [
        f'<p class="note"><b>{escape(watch.row.name)}</b><br>'
        f"{escape(chr(10).join(watch.printed)).replace(chr(10), '<br>')}</p>"
        for watch in watches
        if watch.printed
    ]
    if not said:
        return ""
    unfolded = " open" if len(watches) == 1 else ""
    return f"<details{unfolded}><summary>Results and reports</summary>{''.join(said)}</details>"


def _error(watch: Watch) -> str:
    return message(f"{watch.row.name}: {watch.error}" if watch.row.name else watch.error)
