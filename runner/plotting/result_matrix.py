"""The result matrix drawn: a heat map and curves. Figures are objects; no pyplot, no display."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from runner.plotting.style import COLOURS, INK, RULE, SHADES, SOFT, VERMILION, new_figure
from tasks.retrieval.metrics import ResultMatrix

_MARKERS = "os^Dv"
_GROUP_GAP = 0.3  # in columns
_MAX_ANNOTATED_COLUMNS = 30  # beyond it, numbers in the cells could not be read


def draw_matrix(matrix: ResultMatrix, title: str) -> Figure:
    """Heat map of mAP: a row per step, a column per seen, then unseen domain, then the averages.

    Below the stair lies what was learned by then; a frame marks the domain just learned.
    """
    num_rows = matrix.num_steps + 1
    averages = ("learned", "unseen") if matrix.unseen else ("learned",)
    groups = [
        ("seen domains", matrix.seen, _cells(matrix, matrix.seen)),
        ("unseen domains", matrix.unseen, _cells(matrix, matrix.unseen)),
        ("averages", averages, _averages(matrix)[:, : len(averages)]),
    ]
    num_columns = sum(len(names) for _, names, _ in groups)
    size_inch = min(30.0, 2.2 + 0.78 * num_columns), min(24.0, 2.2 + 0.45 * num_rows)
    figure = new_figure(size_inch, "mAP after each step (%)", title)
    axes = figure.add_subplot()
    ticks: dict[float, str] = {}
    left = 0.0
    for heading, names, cells in groups:
        if names:
            _draw_cells(axes, cells, left, num_columns <= _MAX_ANNOTATED_COLUMNS)
            middle = left + len(names) / 2
            axes.text(middle, num_rows + 0.2, heading, ha="center", va="top", color=SOFT)
            ticks |= {left + index + 0.5: name for index, name in enumerate(names)}
            left += len(names) + _GROUP_GAP
    _draw_stair(axes, matrix.num_steps)
    axes.set(xlim=(-0.05, left - _GROUP_GAP + 0.05), ylim=(num_rows + 0.05, -0.05))
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.tick_top()
    if max(len(name) for name in ticks.values()) > 9 or num_columns > 20:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks([row + 0.5 for row in range(num_rows)], _step_names(matrix))
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return figure


def draw_curves(matrix: ResultMatrix, title: str) -> Figure:
    """mAP over the steps: seen domains left, unseen ones right, averages in black.

    A seen domain is a thin line before it is learned and a bold one from then on; a ring on a
    vertical line marks the step that learned it. Unseen domains are dashed.
    """
    size_inch = min(24.0, 8.6 + 0.3 * matrix.num_steps), 5.0
    figure = new_figure(size_inch, "mAP along the lifelong order (%)", title)
    panels = figure.subplots(1, 2 if matrix.unseen else 1, sharey=True, squeeze=False)[0]
    averages = _averages(matrix)
    _draw_seen(panels[0], _cells(matrix, matrix.seen))
    _finish_curves(panels[0], matrix, matrix.seen, averages[:, 0])
    panels[0].set_title("seen domains, bold once learned", color=SOFT, fontsize=10, loc="left")
    if matrix.unseen:
        for index, curve in enumerate(_cells(matrix, matrix.unseen).T):
            panels[1].plot(curve, "--", color=_colour(index), marker=_marker(index), markersize=4)
        _finish_curves(panels[1], matrix, matrix.unseen, averages[:, 1])
        panels[1].set_title("unseen domains", color=SOFT, fontsize=10, loc="left")
    return figure


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart to at least `gap`, in the same order, as little as a block needs.

    Touching ones form blocks that are centred on the mean of where they wanted to be.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[list[float]] = []  # [centre, number of members]
    for index in order:
        blocks.append([positions[index], 1])
        while len(blocks) > 1:
            (low, num_low), (high, num_high) = blocks[-2:]
            if high - low >= gap * (num_low + num_high) / 2:
                break
            num = num_low + num_high
            blocks[-2:] = [[(low * num_low + high * num_high) / num, num]]
    placed = [
        centre + gap * (member - (num - 1) / 2)
        for centre, num in blocks
        for member in range(int(num))
    ]
    moved = [0.0] * len(positions)
    for index, position in zip(order, placed, strict=True):
        moved[index] = position
    return moved


def _draw_cells(axes: Axes, cells: np.ndarray, left: float, annotated: bool) -> None:
    num_rows, num_columns = cells.shape
    axes.pcolormesh(
        left + np.arange(num_columns + 1),
        np.arange(num_rows + 1),
        np.ma.masked_invalid(cells),
        cmap=LinearSegmentedColormap.from_list("shades", SHADES),
        vmin=0,
        vmax=100,
        edgecolors="white",
        linewidth=2,
    )
    for (row, column), value in np.ndenumerate(cells) if annotated else ():
        text = "·" if math.isnan(value) else f"{value:.1f}"
        ink = "white" if value > 55 else INK
        axes.text(left + column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)


def _draw_stair(axes: Axes, num_steps: int) -> None:
    """Between what is learned (below) and what is not yet, with a frame on what just was."""
    points = [(0.0, 1.0)]
    for step in range(1, num_steps):
        points += [(step, step), (step, step + 1)]
    points.append((num_steps, num_steps))
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.4, solid_joinstyle="miter")
    for step in range(num_steps):
        frame = Rectangle(
            (step + 0.05, step + 1.05), 0.9, 0.9, fill=False, edgecolor=VERMILION, linewidth=2
        )
        axes.add_patch(frame)


def _draw_seen(axes: Axes, cells: np.ndarray) -> None:
    for index, curve in enumerate(cells.T):
        colour, learned = _colour(index), index + 1
        steps = np.arange(len(curve))
        axes.plot(steps[: learned + 1], curve[: learned + 1], color=colour, linewidth=1, alpha=0.55)
        axes.plot(
            steps[learned:],
            curve[learned:],
            color=colour,
            linewidth=2.4,
            marker=_marker(index),
            markersize=4.5,
            clip_on=False,
        )
        if not math.isnan(curve[learned]):
            axes.plot(
                learned,
                curve[learned],
                "o",
                color=colour,
                markersize=9,
                markerfacecolor="white",
                markeredgewidth=2.2,
                zorder=4,
                clip_on=False,
            )
            axes.vlines(
                learned, 0, curve[learned], color=colour, linewidth=1, linestyle=(0, (2, 3))
            )


def _finish_curves(
    axes: Axes, matrix: ResultMatrix, names: Sequence[str], average: np.ndarray
) -> None:
    """The average, names at the ends of the lines, and the axes."""
    last, top = matrix.num_steps, _axis_top(matrix)
    axes.plot(average, color=INK, linewidth=2.2, zorder=3)
    ends = {name: matrix.score("mAP", last, name) for name in names}
    labels = [
        (end, name, _colour(index))
        for index, (name, end) in enumerate(ends.items())
        if end is not None
    ]
    if not math.isnan(average[-1]):
        labels.append((float(average[-1]), "average", INK))
    for height, (end, name, colour) in zip(
        spread([label[0] for label in labels], 0.047 * top), labels, strict=True
    ):
        axes.annotate(
            f"{name} {end:.1f}",
            (last, end),
            (last + 0.03 * max(last, 4), height),
            color=colour,
            va="center",
            fontsize=9,
            weight="bold" if colour == INK else "normal",
            annotation_clip=False,
        )
    axes.set(xlim=(-0.15, last + 0.1), ylim=(0, top))
    if last <= 12:
        axes.set_xticks(
            range(last + 1), _step_names(matrix), rotation=30, ha="right", rotation_mode="anchor"
        )
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step", color=SOFT)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(length=0, labelcolor=INK)


def _cells(matrix: ResultMatrix, domains: Sequence[str]) -> np.ndarray:
    """[T + 1, domains] mAP in percent, nan where it is missing."""
    rows = [
        [_or_nan(matrix.score("mAP", step, domain)) for domain in domains]
        for step in range(matrix.num_steps + 1)
    ]
    return np.array(rows).reshape(len(rows), len(domains))


def _averages(matrix: ResultMatrix) -> np.ndarray:
    """[T + 1, 2] mAP over the domains learned by each step, and over the unseen ones."""
    return np.array(
        [
            [_or_nan(matrix.seen_average("mAP", step)), _or_nan(matrix.unseen_average("mAP", step))]
            for step in range(matrix.num_steps + 1)
        ]
    )


def _axis_top(matrix: ResultMatrix) -> float:
    """The multiple of ten that leaves some room above the highest mAP."""
    highest = np.nanmax(_cells(matrix, matrix.seen + matrix.unseen), initial=0.0)
    return float(min(100, 10 * math.ceil((highest + 4) / 10)))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _step_names(matrix: ResultMatrix) -> list[str]:
    return ["untrained", *(f"+ {domain}" for domain in matrix.seen)]


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    """Another one each time the colours begin again."""
    return _MARKERS[index // len(COLOURS) % len(_MARKERS)]
