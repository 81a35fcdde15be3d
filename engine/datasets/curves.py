"""A line chart as a PNG, drawn with pillow: how L_BN falls over the steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from engine.datasets.images import png_bytes
from engine.datasets.lettering import font, legible, shorten
from engine.errors import ConfigError
from engine.files import write_whole

WIDTH, HEIGHT = 880, 480
LEFT, RIGHT, TOP, BOTTOM = 84, 214, 64, 64
SMOOTH = 4  # drawn this many times larger, then reduced: smooth lines
INK, QUIET, GRID, PAPER = "#1f2328", "#656d76", "#e4e7eb", "#ffffff"
COLOURS = ("#57606a", "#0969da", "#d1480c", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#1b7c83")


@dataclass(frozen=True)
class Axis:
    """Maps values to [0, 1] over the range [low, high], by their logarithm if `log`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


def draw_curves(
    path: Path | str,
    series: Mapping[str, Sequence[float]],
    title: str,
    y_label: str,
    x_label: str = "step",
    log: bool = False,
) -> None:
    """Draw each series over its positions 1, 2, ... and write the chart as PNG, whole or not at all.

    A value that is not finite (or, with `log`, not positive) leaves a gap. Raises ConfigError where nothing is left.
    """
    drawable = [value for values in series.values() for value in values if _drawable(value, log)]
    if not drawable:
        raise ConfigError(
            f"the curves {', '.join(map(repr, series)) or '(none)'} hold no value that can be drawn, expected at least "
            f"one finite{' positive' if log else ''} number: give values, for instance of a guided run."
        )
    longest = max(map(len, series.values()))
    x_axis = whole_axis(longest)
    y_axis = (
        log_axis(min(drawable), max(drawable)) if log else linear_axis(min(drawable), max(drawable))
    )
    chart = Image.new("RGB", (WIDTH * SMOOTH, HEIGHT * SMOOTH), PAPER)
    _Canvas(chart, x_axis, y_axis).draw(series, legible(title), legible(x_label), legible(y_label))
    write_whole(Path(path), png_bytes(chart.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)))


def linear_axis(low: float, high: float, count: int = 6) -> Axis:
    """About `count` ticks at 1, 2 or 5 times a power of ten; from 0 where that wastes less than half of the height."""
    low = 0.0 if 0 < low < high / 2 else low
    spread = (high - low) or abs(high) or 1.0
    rough = spread / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(n * step for n in range(first, max(last, first + 1) + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def log_axis(low: float, high: float) -> Axis:
    """Ticks at 1, 2 and 5 times powers of ten, powers alone where there are many; the ends are ticks."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    first = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    last = min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
    ticks = tuple(marks[first : max(last, first + 1) + 1])
    return Axis(ticks[0], ticks[-1], ticks, log=True)


def whole_axis(count: int) -> Axis:
    """Positions 1 ... count, with ticks at 1 and at multiples of a round number."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if count / s <= 10)
    ticks = (1, *(n for n in range(step, count + 1, step) if n > 1))
    return Axis(1, max(count, 2), tuple(map(float, ticks)))


class _Canvas:
    """The chart's picture with its two axes; positions are in pixels of the enlarged picture."""

    def __init__(self, chart: Image.Image, x_axis: Axis, y_axis: Axis) -> None:
        self.chart, self.x_axis, self.y_axis = chart, x_axis, y_axis
        self.pen = ImageDraw.Draw(chart)
        self.small, self.normal, self.large = (font(size * SMOOTH) for size in (14, 15, 20))

    def draw(
        self, series: Mapping[str, Sequence[float]], title: str, x_label: str, y_label: str
    ) -> None:
        self._frame(title, x_label, y_label)
        for number, (name, values) in enumerate(series.items()):
            colour = COLOURS[number % len(COLOURS)]
            self._line(values, colour)
            y = (TOP + 10 + 26 * number) * SMOOTH
            x = (WIDTH - RIGHT + 24) * SMOOTH
            self.pen.line((x, y, x + 24 * SMOOTH, y), colour, 3 * SMOOTH)
            text = shorten(name, self.normal, (RIGHT - 64) * SMOOTH)
            self.pen.text((x + 32 * SMOOTH, y), text, INK, self.normal, anchor="lm")

    def _frame(self, title: str, x_label: str, y_label: str) -> None:
        left, right = LEFT * SMOOTH, (WIDTH - RIGHT) * SMOOTH
        top, bottom = TOP * SMOOTH, (HEIGHT - BOTTOM) * SMOOTH
        self.pen.text((left, 22 * SMOOTH), title, INK, self.large, anchor="lt")
        for tick in self.y_axis.ticks:
            y = self._y(tick)
            self.pen.line((left, y, right, y), GRID, SMOOTH)
            self.pen.text((left - 10 * SMOOTH, y), f"{tick:,.10g}", QUIET, self.small, anchor="rm")
        for tick in self.x_axis.ticks:
            x = self._x(tick)
            self.pen.line((x, bottom, x, bottom + 5 * SMOOTH), QUIET, SMOOTH)
            self.pen.text((x, bottom + 10 * SMOOTH), f"{tick:,.0f}", QUIET, self.small, anchor="mt")
        self.pen.line((left, bottom, right, bottom), QUIET, SMOOTH)
        self.pen.line((left, top, left, bottom), QUIET, SMOOTH)
        middle = (left + right) // 2
        self.pen.text((middle, (HEIGHT - 16) * SMOOTH), x_label, INK, self.normal, anchor="ms")
        self._upright(y_label, (top + bottom) // 2)

    def _upright(self, text: str, y: int) -> None:
        """Text along the vertical axis, read from below."""
        x0, y0, x1, y1 = map(int, self.normal.getbbox(text))
        label = Image.new("RGB", (x1 - x0 + 2, y1 - y0 + 2), PAPER)
        ImageDraw.Draw(label).text((1 - x0, 1 - y0), text, INK, self.normal)
        turned = label.rotate(90, expand=True)
        self.chart.paste(turned, (12 * SMOOTH, y - turned.height // 2))

    def _line(self, values: Sequence[float], colour: str) -> None:
        """Unbroken runs of values as lines, a lone value as a dot."""
        run: list[tuple[float, float]] = []
        for number, value in enumerate([*values, math.nan], 1):
            if _drawable(value, self.y_axis.log):
                run.append((self._x(number), self._y(value)))
                continue
            if len(run) > 1:
                self.pen.line(run, colour, 3 * SMOOTH, joint="curve")
            for point in run if len(run) == 1 else ():
                self.pen.circle(point, 3 * SMOOTH, colour)
            run = []

    def _x(self, value: float) -> float:
        return (LEFT + self.x_axis.place(value) * (WIDTH - LEFT - RIGHT)) * SMOOTH

    def _y(self, value: float) -> float:
        return (HEIGHT - BOTTOM - self.y_axis.place(value) * (HEIGHT - TOP - BOTTOM)) * SMOOTH


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)
