"""Plot of accuracy and costs of fusion modules on normalised axes (paper: figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.ablation.costs import accuracy_of
from runner.ablation.summary import TableSummary
from runner.plotting.style import (
    GRID,
    MARKERS,
    MUTED,
    TEXT,
    new_figure,
    series_colour,
    style_axes,
)
from runner.profiling.fusion_cost import BATCH, FusionCost
from runner.results.format import MISSING, format_count, format_estimate

_ROW_INCH, _PLOT_INCH, _PLOT_WIDTH_INCH, _CHARACTER_INCH = 0.3, 3.4, 6.6, 0.09


@dataclass(frozen=True)
class Axis:
    """One axis of the plot.

    Attributes:
        heading: what is measured.
        values: value of each table row; None if it is unknown.
        texts: values as text, with units.
        is_cost: whether lower values are better.
    """

    heading: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    is_cost: bool = True

    @property
    def normalised(self) -> tuple[float | None, ...]:
        """Values from 0 (worst row) to 1 (best row); 1 for all if they are equal."""
        known = [value for value in self.values if value is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        if low == high:
            return tuple(None if value is None else 1.0 for value in self.values)
        shares = [None if each is None else (each - low) / (high - low) for each in self.values]
        return tuple(1 - share if share is not None and self.is_cost else share for share in shares)


def efficiency_axes(summary: TableSummary) -> list[Axis]:
    """Accuracy, parameters, FLOPs, latency and memory of all rows of a table with costs."""
    accuracy = accuracy_of(summary)
    estimates = [row.estimate(accuracy) for row in summary.rows]
    costs = [summary.costs[row.name] for row in summary.rows]
    milliseconds = [median(cost.image_ms) for cost in costs]
    return [
        Axis(
            f"{accuracy.heading} (%)",
            tuple(each and each.mean for each in estimates),
            tuple(map(format_estimate, estimates)),
            is_cost=False,
        ),
        _counts("parameters\nof the fusion", costs, lambda cost: cost.num_parameters),
        _counts("FLOPs\nof the fusion", costs, lambda cost: cost.flops),
        Axis("ms\nper image", tuple(milliseconds), tuple(f"{each:.3g}" for each in milliseconds)),
        _counts(f"memory (B)\nof {BATCH} images", costs, lambda cost: cost.memory_bytes),
    ]


def _counts(
    heading: str, costs: Sequence[FusionCost], value_of: Callable[[FusionCost], float]
) -> Axis:
    values = [value_of(cost) for cost in costs]
    return Axis(heading, tuple(values), tuple(map(format_count, values)))


def draw_efficiency(summary: TableSummary) -> Figure:
    """One line per row over normalised axes, higher is better; the values are listed below."""
    axes_of_plot, num_rows = efficiency_axes(summary), len(summary.rows)
    height = 1.5 + _PLOT_INCH + _ROW_INCH * num_rows
    label_inch = 0.8 + _CHARACTER_INCH * max(len(row.label) for row in summary.rows)
    width = label_inch + _PLOT_WIDTH_INCH + 0.3
    figure = new_figure(
        (width, height), summary.table.title,
        "every axis from the worst row (0) to the best row (1): higher is better; values below",
    )  # fmt: skip
    figure.set_layout_engine("none")
    bottom = (0.75 + _ROW_INCH * num_rows) / height
    axes = figure.add_axes(
        (label_inch / width, bottom, _PLOT_WIDTH_INCH / width, _PLOT_INCH / height)
    )
    positions = range(len(axes_of_plot))
    for index in range(num_rows):
        heights = [axis.normalised[index] for axis in axes_of_plot]
        points = [
            (at, each) for at, each in zip(positions, heights, strict=True) if each is not None
        ]
        axes.plot(
            *zip(*points, strict=True), color=series_colour(index), linewidth=2,
            marker=MARKERS[index % len(MARKERS)], markersize=8, alpha=0.9, clip_on=False, zorder=3,
        )  # fmt: skip
    for position in positions:
        axes.axvline(position, color=GRID, linewidth=1.2, zorder=1)
    axes.set(xlim=(-0.25, len(axes_of_plot) - 0.75), ylim=(-0.04, 1.04))
    axes.set_xticks(list(positions), [axis.heading for axis in axes_of_plot])
    axes.set_yticks([0, 0.5, 1], ["worst", "", "best"])
    style_axes(axes, "y", ())
    labels = {row.label: index for index, row in enumerate(summary.rows)}
    _write_values(axes, axes_of_plot, labels)
    return figure


def _write_values(axes: Axes, axes_of_plot: Sequence[Axis], labels: Mapping[str, int]) -> None:
    """Writes a legend with the values of each row below the axes."""
    for label, index in labels.items():
        below = -(0.75 + _ROW_INCH * index) / _PLOT_INCH
        colour = series_colour(index)
        axes.plot(
            [-0.44], [below], marker=MARKERS[index % len(MARKERS)], markersize=7, color=colour,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
        axes.text(
            -0.53, below, label, ha="right", va="center", color=TEXT, weight="bold",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        for position, axis in enumerate(axes_of_plot):
            text = axis.texts[index]
            axes.text(
                position, below, text, ha="center", va="center",
                color=MUTED if text == MISSING else TEXT, transform=axes.get_xaxis_transform(),
            )  # fmt: skip
