"""A curve of L_BN by step for each run, as SVG that takes its colours from the page's style."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 42, 126, 14, 30
LINES = 4
"""Horizontal lines of the grid, but for the axis."""
FACTORS = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)
"""Of a power of ten, where the vertical axis ends."""

Curve = Sequence[tuple[int, float]]
"""Points: step from 0, and what was measured."""


def chart(curves: Sequence[tuple[str, str, Curve]], steps: int, measures: str) -> str:
    """The curves, each with its name at its end.

    curves: class in the style sheet, name and points of each. steps: of the horizontal axis. measures: what the
    vertical axis is, which begins at 0.
    """
    values = [value for _, _, points in curves for _, value in points]
    if not values or steps < 1:
        return ""
    top = _round_up(max(values))

    def x(index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(1, steps - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * max(0.0, value) / top

    parts = []
    for number in range(LINES + 1):
        value = top * number / LINES
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_level(y(value))}/>')
        parts.append(
            f'<text class="tick end" x="{LEFT - 8}" y="{y(value) + 4:.1f}">{value:g}</text>'
        )
    for index in sorted({0, (steps - 1) // 2, steps - 1}):
        parts.append(
            f'<text class="tick middle" x="{x(index):.1f}" y="{HEIGHT - 8}">{index + 1}</text>'
        )
    ends: list[float] = []
    drawn = [curve for curve in curves if curve[2]]
    for kind, name, points in sorted(drawn, key=lambda curve: -curve[2][-1][1]):  # names downwards
        path = " ".join(f"{x(index):.1f},{y(value):.1f}" for index, value in points)
        index, value = points[-1]
        parts.append(f'<polyline class="curve {kind}" points="{path}"/>')
        parts.append(f'<circle class="dot {kind}" cx="{x(index):.1f}" cy="{y(value):.1f}" r="3"/>')
        ends.append(_clear_of(ends, y(value) + 4))
        parts.append(
            f'<text class="name {kind}" x="{x(index) + 8:.1f}" y="{ends[-1]:.1f}">'
            f"{escape(name)} {_in_words(value)}</text>"
        )
    return (
        f'<figure class="chart"><figcaption>{escape(measures)} by step</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(measures)} by step">'
        f"{''.join(parts)}</svg></figure>"
    )


def _level(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _in_words(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _clear_of(taken: Sequence[float], y: float) -> float:
    """The height of a name that lies on no other."""
    for other in sorted(taken):
        if abs(other - y) < 14:
            y = other + 14
    return y


def _round_up(value: float) -> float:
    """The next number that LINES divides well; 1 for what is not above 0."""
    if not 0 < value < float("inf"):
        return 1.0
    power = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1 else 1.0
    while power > value:
        power /= 10
    return next(power * factor for factor in FACTORS if value <= power * factor)
