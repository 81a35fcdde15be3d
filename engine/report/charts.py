"""Charts as SVG, in colours that are legible on white and on black."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

INK, ACCENT, FAINT = "#7d8590", "#3b82f6", "#7d859033"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text as text, in the page's font
    "svg.hashsalt": "ddis",  # equal data give equal bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
METADATA = ("Creator", "Date", "Format", "Type")
"""What matplotlib writes of itself, left out: it names other sites, and the day."""
WIDTH, HEIGHT = 5.2, 2.8
MOST_BARS = 40
MOST_CELLS = 30
FEW_STEPS = 40
"""Curves of fewer steps show each of them."""
LINES = ("-", "--", "-.", ":")
BINS = 24
FLAT = 1e-9
"""Values that differ by less, relative to the largest, are one."""
LONGEST = 26
"""Letters of a label; the page's tables have the longer ones whole."""
LETTER, CELL = 0.08, 0.34
"""The width of a letter, and of a cell of the matrix, in inches."""
DARK = 0.4
"""The share from which a cell is dark enough for white letters."""


def histogram(
    values: Sequence[float], label: str, limits: tuple[float, float] | None = None
) -> str:
    """How values are spread; "" where none is finite. limits: of the axis, for pages to be compared."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        return ""
    flat = np.ptp(finite) <= FLAT * np.abs(finite).max()
    figure, axes = _new()
    axes.hist(finite, bins=1 if flat and limits is None else BINS, range=limits, color=ACCENT)
    axes.set_xlabel(label)
    axes.set_ylabel("images")
    return _svg(figure)


def over_steps(curve: Mapping[str, Sequence[float]], label: str) -> str:
    """The mean over images at each step, in a band of one standard deviation to both sides."""
    steps, mean, spread = (np.array(curve[name]) for name in ("steps", "mean", "spread"))
    figure, axes = _new()
    axes.fill_between(steps, mean - spread, mean + spread, color=FAINT, linewidth=0)
    axes.plot(steps, mean, color=ACCENT, marker="o" if len(steps) < FEW_STEPS else "", markersize=3)
    axes.set_ylim(bottom=min(0.0, float((mean - spread).min())))
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    return _svg(figure)


def over_scales(series: Mapping[str, Sequence[float]], scales: Sequence[float], best: float) -> str:
    """A line for each name over the scales that were tried; the best scale is marked."""
    figure, axes = _new()
    for (name, values), style in zip(series.items(), LINES, strict=False):
        axes.plot(scales, values, style, color=ACCENT, marker="o", markersize=3, label=_text(name))
    axes.axvline(best, color=INK, linewidth=1, linestyle=":")
    axes.set_xlabel("scale")
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    else:
        axes.set_ylabel(_text(next(iter(series))))
    return _svg(figure)


def intervals(entries: Mapping[str, Mapping[str, float | None]], label: str) -> str:
    """A value for each name, and its interval where it has one."""
    figure, axes = _new(height=max(HEIGHT, 0.34 * len(entries) + 0.8))
    names = list(entries)[::-1]
    for place, one in enumerate(entries[name] for name in names):
        low, high = one["low"], one["high"]
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=ACCENT, linewidth=2)
        axes.plot(one["value"], place, "o", color=ACCENT, markersize=5)
    axes.set_yticks(range(len(entries)), [_text(name) for name in names])
    axes.set_ylim(-0.5, len(entries) - 0.5)
    axes.grid(axis="x", color=FAINT)
    axes.set_xlabel(label)
    return _svg(figure)


def bars(values: Mapping[str, float], label: str) -> str:
    """A share for each name, in [0, 1]; the smallest where there are too many for one chart, which it then says."""
    shown = sorted(values.items(), key=lambda item: item[1])[:MOST_BARS]
    shown.reverse()
    figure, axes = _new(height=max(HEIGHT, 0.24 * len(shown) + 0.8))
    axes.barh([_text(name) for name, _ in shown], [value for _, value in shown], color=ACCENT)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label + f", lowest {len(shown)} of {len(values)}" * (len(shown) < len(values)))
    return _svg(figure)


def spreads(rows: Mapping[str, Sequence[float]], label: str) -> str:
    """The values of a few runs for each name: a dot each, and a bar to their mean."""
    figure, axes = _new(height=max(HEIGHT, 0.34 * len(rows) + 0.8))
    names = list(rows)[::-1]
    means = [float(np.mean(rows[name])) for name in names]
    axes.barh([_text(name) for name in names], means, color=FAINT)
    for place, name in enumerate(names):
        axes.plot(rows[name], [place] * len(rows[name]), "o", color=ACCENT, markersize=4)
    axes.set_xlabel(label)
    return _svg(figure)


def matrix(counts: Mapping[tuple[str, str], int], labels: Sequence[str]) -> str:
    """The share of each class's images by the class that the teacher sees; "" where there are too many classes."""
    if len(labels) > MOST_CELLS:
        return ""
    found = np.array([[counts.get((a, b), 0) for b in labels] for a in labels], dtype=float)
    shares = found / np.maximum(found.sum(1, keepdims=True), 1)
    texts = [_text(label) for label in labels]
    side = CELL * len(labels) + LETTER * max(map(len, texts)) + 0.8
    figure, axes = _new(width=max(WIDTH, side), height=max(HEIGHT, side))
    axes.imshow(shares, cmap=mpl.colors.LinearSegmentedColormap.from_list("one", [FAINT, ACCENT]))
    axes.set_xticks(range(len(labels)), texts, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), texts)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    for row, column in zip(*np.nonzero(found), strict=True):
        ink = "white" if shares[row, column] > DARK else INK
        text = f"{found[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    return _svg(figure)


def _new(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _text(label: str) -> str:
    """A label as it is written, if need be its beginning: between two dollars matplotlib would read mathematics."""
    shown = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
    return shown.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """The chart as an element for a page, without what differs from one run to the next."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are in the page's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
