"""Plots of an ablation table: scores by row, and accuracy against latency."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.ablation.costs import accuracy_of
from runner.ablation.efficiency_plot import draw_efficiency
from runner.ablation.quantities import OF_DOMAINS, Quantity
from runner.ablation.summary import Row, TableSummary
from runner.plotting.style import (
    BLUE,
    DASHED,
    MARKERS,
    MUTED,
    SHADES,
    TEXT,
    WHITE_BOX,
    axes_title,
    new_figure,
    save_figure,
    series_colour,
    style_axes,
)
from runner.profiling.fusion_cost import BATCH, FusionCost
from runner.results.format import format_count

_ROW_INCH, _WIDTH_INCH, _CHARACTER_INCH = 0.42, 4.2, 0.075


def write_figures(summary: TableSummary, folder: Path) -> None:
    """Writes table.png, and if costs are known costs.png and efficiency.png, into `folder`."""
    save_figure(draw_table(summary), folder / "table.png")
    if summary.costs:
        save_figure(draw_costs(summary), folder / "costs.png")
        save_figure(draw_efficiency(summary), folder / "efficiency.png")


def draw_table(summary: TableSummary) -> Figure:
    """Scores by table row: seen mAP left and unseen mAP (if any) right.

    For runs over one domain, R1 is left and mAP right. A large dot is the mean, its bar the sample
    standard deviation; small dots are the seeds. A dashed line marks the mean of the table's
    reference row.
    """
    panels = [
        (quantity, title)
        for quantity, title in summary.quantities.plotted
        if any(row.estimate(quantity) for row in summary.rows)
    ]
    names = max(map(len, _labels(summary))) * _CHARACTER_INCH
    size_inch = (
        names + 0.6 + _WIDTH_INCH * max(len(panels), 1),
        1.45 + _ROW_INCH * len(summary.rows),
    )
    figure = new_figure(size_inch, summary.table.title, _subtitle(summary))
    axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for each, (quantity, title) in zip(axes, panels, strict=False):
        _draw_panel(each, summary, quantity)
        axes_title(each, title)
    return figure


def _subtitle(summary: TableSummary) -> str:
    num_seeds = max(len(row.runs) for row in summary.rows)
    at_most = "up to " if any(len(row.runs) != num_seeds for row in summary.rows) else ""
    parts = ["mAP (%)" if summary.quantities is OF_DOMAINS else "percent"]
    if summary.table.checkpoint == "validation":
        parts.append("epoch selected on validation identities")
    deviation = f"mean ± sample standard deviation over {at_most}{num_seeds} seeds"
    parts.append("one seed" if num_seeds == 1 else deviation)
    return f"{', '.join(parts)}; dashed: {summary.row(summary.table.reference).label}"


def _labels(summary: TableSummary) -> list[str]:
    """Labels of the rows, with their seeds if these differ and means are not over the same ones."""
    if summary.has_equal_seeds:
        return [row.label for row in summary.rows]
    return [f"{row.label} (seeds {row.seeds or 'none'})" for row in summary.rows]


def _draw_panel(axes: Axes, summary: TableSummary, quantity: Quantity) -> None:
    reference = summary.row(summary.table.reference).estimate(quantity)
    if reference is not None:
        axes.axvline(reference.mean, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    for height, row in enumerate(summary.rows):
        estimate = row.estimate(quantity)
        if estimate is None:
            continue
        if len(row.runs) > 1:
            values = [value for value in row.values(quantity).values() if value is not None]
            axes.plot(values, [height + 0.22] * len(values), "o", color=SHADES[2], markersize=3.5)
        axes.errorbar(
            estimate.mean, height, xerr=estimate.deviation or None, fmt="o", color=BLUE,
            markersize=6.5, elinewidth=1.8, capsize=3.5, zorder=3,
        )  # fmt: skip
        axes.annotate(
            f"{estimate.mean:.1f}", (estimate.mean, height), (0, 6), textcoords="offset points",
            ha="center", va="bottom", color=TEXT, fontsize=8.5, zorder=4,
            bbox=WHITE_BOX,
        )  # fmt: skip
    axes.set_yticks(range(len(summary.rows)), _labels(summary))
    axes.set_ylim(len(summary.rows) - 0.45, -0.65)
    axes.margins(x=0.12)
    style_axes(axes, grid="x")


def draw_costs(summary: TableSummary) -> Figure:
    """Accuracy against latency by row; bars show deviation over seeds and range of latency."""
    accuracy = accuracy_of(summary)
    title = f"{accuracy.heading} (%) against milliseconds per gallery image, batches of {BATCH}"
    figure = new_figure((7.4, 4.2), summary.table.title, title)
    axes = figure.subplots()
    for index, row in enumerate(summary.rows):
        estimate = row.estimate(accuracy)
        if estimate is None:
            continue
        times = summary.costs[row.name].image_ms
        middle = median(times)
        axes.errorbar(
            middle, estimate.mean, yerr=estimate.deviation or None,
            xerr=[[middle - min(times)], [max(times) - middle]],
            fmt=MARKERS[index % len(MARKERS)], color=series_colour(index),
            markersize=7, elinewidth=1.4, capsize=3,
            label=_legend_label(row, summary.costs[row.name]),
        )  # fmt: skip
    if axes.containers:
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=TEXT,
            fontsize=9, labelspacing=1.2,
        )  # fmt: skip
    axes.margins(x=0.12, y=0.12)
    style_axes(
        axes, "both", ("bottom", "left"), x_label="ms per image, median and range",
        y_label=f"{accuracy.heading} (%), mean ± sample standard deviation",
    )  # fmt: skip
    return figure


def _legend_label(row: Row, cost: FusionCost) -> str:
    return f"{row.label}\n{format_count(cost.num_parameters)} parameters"
