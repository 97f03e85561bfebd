"""Line charts as coordinates of an SVG, which the template draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 260
"""Size of the drawing in SVG units; the page scales it to the width of its column."""

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
NUM_COLOURS = 8
_MAX_POINTS = 400
_MAX_X_LABELS = 14
_Scale = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: name in the legend.
        values: (x, y); None as y interrupts the line.
        tips: tooltip of each point; without tips, the line has no visible points.
        colour: index of the colour.
        is_dashed: draws a dashed line.
        is_bold: draws a thick line in the colour of text.
    """

    name: str
    values: Sequence[tuple[float, float | None]]
    tips: Sequence[str] = ()
    colour: int = 0
    is_dashed: bool = False
    is_bold: bool = False

    @property
    def style(self) -> str:
        """Classes of the line in the style sheet."""
        colour = "bold" if self.is_bold else f"c{self.colour % NUM_COLOURS}"
        return f"{colour} dashed" if self.is_dashed else colour


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in SVG units."""

    position: float
    label: str


@dataclass(frozen=True)
class DrawnLine:
    """A line in SVG units.

    Attributes:
        line: values of the line.
        path: `d` attribute of the SVG path.
        points: (x, y, tooltip) of each visible point.
    """

    line: Line
    path: str
    points: tuple[tuple[float, float, str], ...]

    @property
    def last(self) -> float | None:
        """Last value of the line; None if it has none."""
        known = [y for _, y in self.line.values if y is not None]
        return known[-1] if known else None


@dataclass(frozen=True)
class Chart:
    """A chart in SVG units.

    Attributes:
        title: heading of the chart.
        lines: lines in the order of the legend.
        x_ticks, y_ticks: labelled positions.
        x_label: name of the horizontal axis; "" for none.
        marks: labelled vertical lines.
    """

    title: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str = ""
    marks: tuple[Tick, ...] = ()


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_labels: Sequence[str] = (),
    x_label: str = "",
    y_max: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart | None:
    """Computes the coordinates of a chart whose vertical axis includes 0.

    Args:
        title: heading of the chart.
        lines: lines; values that are not finite interrupt them.
        x_labels: labels of x = 0, 1, ...; () for round numbers.
        x_label: name of the horizontal axis.
        y_max: upper end of the vertical axis; None for a round number above all values.
        marks: x and label of vertical lines.

    Returns:
        The chart, or None if no line has a finite value.
    """
    known = [(x, y) for line in lines for x, y in line.values if y is not None and math.isfinite(y)]
    if not known:
        return None
    x_low, x_high = min(x for x, _ in known), max(x for x, _ in known)
    if x_labels:
        x_low, x_high = 0.0, float(len(x_labels) - 1)
    lowest = min(y for _, y in known)
    highest = max(0.0, *(y for _, y in known)) if y_max is None else y_max
    # A divergence that is 0 may be slightly negative by rounding.
    y_ticks = round_ticks(lowest if lowest < -1e-6 * highest else 0.0, highest)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x_of(x: float) -> float:
        return round(LEFT + (x - x_low) / ((x_high - x_low) or 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y_of(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    if x_labels:
        stride = math.ceil(len(x_labels) / _MAX_X_LABELS)
        x_ticks = [Tick(x_of(at), x_labels[at]) for at in range(0, len(x_labels), stride)]
    else:
        inside = [each for each in round_ticks(x_low, x_high) if x_low <= each <= x_high]
        x_ticks = [Tick(x_of(each), f"{each:g}") for each in inside]
    drawn = [_drawn(line, x_of, y_of) for line in lines]
    return Chart(
        title,
        tuple(each for each in drawn if each.path),
        tuple(x_ticks),
        tuple(Tick(y_of(each), f"{each:g}") for each in y_ticks),
        x_label,
        tuple(Tick(x_of(x), label) for x, label in marks),
    )


def round_ticks(low: float, high: float, num_steps: int = 5) -> list[float]:
    """Equally spaced round numbers that cover [low, high], about `num_steps` intervals."""
    span = high - low if high > low else max(abs(high), 1.0)
    size = 10.0 ** math.floor(math.log10(span / num_steps))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size * num_steps >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(values: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points: means of consecutive values, so that no peak is made up."""
    if len(values) <= _MAX_POINTS:
        return list(values)
    size = math.ceil(len(values) / _MAX_POINTS)
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [
        (math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group))
        for group in groups
    ]


def _drawn(line: Line, x_of: _Scale, y_of: _Scale) -> DrawnLine:
    commands: list[str] = []
    points: list[tuple[float, float, str]] = []
    is_open = False
    for index, (x, y) in enumerate(line.values):
        if y is None or not math.isfinite(y):
            is_open = False
            continue
        commands.append(f"{'L' if is_open else 'M'}{x_of(x):g} {y_of(y):g}")
        is_open = True
        if line.tips:
            points.append((x_of(x), y_of(y), line.tips[index]))
    return DrawnLine(line, "".join(commands), tuple(points))
