"""Charts as SVG, in colours that are legible on white and on black."""

import io
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
BINS = 24
DARK = 0.4
"""The share from which a cell is dark enough for white letters."""


def histogram(values: Sequence[float], label: str) -> str:
    """How values are spread."""
    figure, axes = _new()
    axes.hist(values, bins=BINS, color=ACCENT)
    axes.set_xlabel(label)
    axes.set_ylabel("images")
    return _svg(figure)


def bars(values: Mapping[str, float], label: str) -> str:
    """A share for each name, in [0, 1]; the smallest where there are too many for one chart."""
    shown = sorted(values.items(), key=lambda item: item[1])[:MOST_BARS]
    shown.reverse()
    figure, axes = _new(height=max(HEIGHT, 0.24 * len(shown) + 0.8))
    axes.barh([name for name, _ in shown], [value for _, value in shown], color=ACCENT)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    return _svg(figure)


def spreads(rows: Mapping[str, Sequence[float]], label: str) -> str:
    """The values of a few runs for each name: a dot each, and a bar to their mean."""
    figure, axes = _new(height=max(HEIGHT, 0.34 * len(rows) + 0.8))
    names = list(rows)[::-1]
    axes.barh(names, [float(np.mean(rows[name])) for name in names], color=FAINT)
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
    side = max(HEIGHT, 0.34 * len(labels) + 1.2)
    figure, axes = _new(width=max(WIDTH, side), height=side)
    axes.imshow(shares, cmap=mpl.colors.LinearSegmentedColormap.from_list("one", [FAINT, ACCENT]))
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("seen as")
    axes.set_ylabel("made as")
    for row, column in zip(*np.nonzero(found), strict=True):
        ink = "white" if shares[row, column] > DARK else INK
        text = f"{found[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    return _svg(figure)


def _new(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    """The chart as an element for a page, without what differs from one run to the next."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
