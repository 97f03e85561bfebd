"""Plots of the result matrix: a heat map and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from runner.plotting.style import (
    MUTED,
    TEXT,
    VERMILION,
    axes_title,
    new_figure,
    series_colour,
    series_marker,
    shades,
    style_axes,
    style_spines,
    tilt_tick_labels,
)
from tasks.retrieval.metrics import ResultMatrix

_GROUP_GAP = 0.3  # in columns
_MAX_ANNOTATED_COLUMNS = 30  # with more columns, numbers in the cells are too small


def draw_matrix(matrix: ResultMatrix, title: str) -> Figure:
    """Heat map of mAP: one row per step; columns are seen domains, unseen domains, averages.

    Cells below the stair line belong to domains already learned; a red frame marks the domain
    learned in that step.
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
            axes.text(middle, num_rows + 0.2, heading, ha="center", va="top", color=MUTED)
            ticks |= {left + index + 0.5: name for index, name in enumerate(names)}
            left += len(names) + _GROUP_GAP
    _draw_stair(axes, matrix.num_steps)
    axes.set(xlim=(-0.05, left - _GROUP_GAP + 0.05), ylim=(num_rows + 0.05, -0.05))
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.tick_top()
    if max(len(name) for name in ticks.values()) > 9 or num_columns > 20:
        tilt_tick_labels(axes, 35, "left")
    axes.set_yticks([row + 0.5 for row in range(num_rows)], _step_names(matrix))
    style_spines(axes)
    return figure


def draw_curves(matrix: ResultMatrix, title: str) -> Figure:
    """mAP over the steps: seen domains left, unseen domains right, averages in black.

    The curve of a seen domain is thin before the domain is learned and bold afterwards; a ring on
    a vertical line marks the step that learned it. Unseen domains are dashed.
    """
    size_inch = min(24.0, 8.6 + 0.3 * matrix.num_steps), 5.0
    figure = new_figure(size_inch, "mAP along the lifelong order (%)", title)
    panels = figure.subplots(1, 2 if matrix.unseen else 1, sharey=True, squeeze=False)[0]
    averages = _averages(matrix)
    _draw_seen(panels[0], _cells(matrix, matrix.seen))
    _finish_curves(panels[0], matrix, matrix.seen, averages[:, 0])
    axes_title(panels[0], "seen domains, bold once learned")
    if matrix.unseen:
        for index, curve in enumerate(_cells(matrix, matrix.unseen).T):
            colour, marker = series_colour(index), series_marker(index)
            panels[1].plot(curve, "--", color=colour, marker=marker, markersize=4)
        _finish_curves(panels[1], matrix, matrix.unseen, averages[:, 1])
        axes_title(panels[1], "unseen domains")
    return figure


def separate(positions: Sequence[float], gap: float) -> list[float]:
    """Moves positions so that neighbours are at least `gap` apart, and keeps their order.

    Positions that would overlap form a block centred on their mean.
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
        cmap=shades(),
        vmin=0,
        vmax=100,
        edgecolors="white",
        linewidth=2,
    )
    for (row, column), value in np.ndenumerate(cells) if annotated else ():
        text = "·" if math.isnan(value) else f"{value:.1f}"
        colour = "white" if value > 55 else TEXT
        axes.text(left + column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)


def _draw_stair(axes: Axes, num_steps: int) -> None:
    """Line between learned (below) and not yet learned domains, with a frame per learned domain."""
    points = [(0.0, 1.0)]
    for step in range(1, num_steps):
        points += [(step, step), (step, step + 1)]
    points.append((num_steps, num_steps))
    axes.plot(*zip(*points, strict=True), color=TEXT, linewidth=1.4, solid_joinstyle="miter")
    for step in range(num_steps):
        frame = Rectangle(
            (step + 0.05, step + 1.05), 0.9, 0.9, fill=False, edgecolor=VERMILION, linewidth=2
        )
        axes.add_patch(frame)


def _draw_seen(axes: Axes, cells: np.ndarray) -> None:
    for index, curve in enumerate(cells.T):
        colour, learned = series_colour(index), index + 1
        steps = np.arange(len(curve))
        axes.plot(steps[: learned + 1], curve[: learned + 1], color=colour, linewidth=1, alpha=0.55)
        axes.plot(
            steps[learned:],
            curve[learned:],
            color=colour,
            linewidth=2.4,
            marker=series_marker(index),
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
    """Draws the average and labels the curves and axes."""
    last, top = matrix.num_steps, _axis_top(matrix)
    axes.plot(average, color=TEXT, linewidth=2.2, zorder=3)
    ends = {name: matrix.score("mAP", last, name) for name in names}
    labels = [
        (end, name, series_colour(index))
        for index, (name, end) in enumerate(ends.items())
        if end is not None
    ]
    if not math.isnan(average[-1]):
        labels.append((float(average[-1]), "average", TEXT))
    for height, (end, name, colour) in zip(
        separate([label[0] for label in labels], 0.047 * top), labels, strict=True
    ):
        axes.annotate(
            f"{name} {end:.1f}",
            (last, end),
            (last + 0.03 * max(last, 4), height),
            color=colour,
            va="center",
            fontsize=9,
            weight="bold" if colour == TEXT else "normal",
            annotation_clip=False,
        )
    axes.set(xlim=(-0.15, last + 0.1), ylim=(0, top))
    if last <= 12:
        axes.set_xticks(
            range(last + 1), _step_names(matrix), rotation=30, ha="right", rotation_mode="anchor"
        )
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step", color=MUTED)
    style_axes(axes)


def _cells(matrix: ResultMatrix, domains: Sequence[str]) -> np.ndarray:
    """[T + 1, num_domains] mAP in percent; NaN if missing."""
    rows = [
        [_or_nan(matrix.score("mAP", step, domain)) for domain in domains]
        for step in range(matrix.num_steps + 1)
    ]
    return np.array(rows).reshape(len(rows), len(domains))


def _averages(matrix: ResultMatrix) -> np.ndarray:
    """[T + 1, 2] mean mAP over the domains learned by each step, and over unseen domains."""
    return np.array(
        [
            [_or_nan(matrix.seen_average("mAP", step)), _or_nan(matrix.unseen_average("mAP", step))]
            for step in range(matrix.num_steps + 1)
        ]
    )


def _axis_top(matrix: ResultMatrix) -> float:
    """Upper limit of the y axis: a multiple of ten above the highest mAP."""
    highest = np.nanmax(_cells(matrix, matrix.seen + matrix.unseen), initial=0.0)
    return float(min(100, 10 * math.ceil((highest + 4) / 10)))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _step_names(matrix: ResultMatrix) -> list[str]:
    return ["untrained", *(f"+ {domain}" for domain in matrix.seen)]
