"""A table drawn: every seed a dot, mean and deviation beside them, two scores side by side."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runner.ablation.costs import accuracy_of
from runner.ablation.quantities import OF_DOMAINS, Quantity
from runner.ablation.summary import Row, TableSummary
from runner.plotting.style import BLUE, COLOURS, INK, RULE, SHADES, SOFT
from runner.profiling.fusion_cost import BATCH, FusionCost
from runner.results.format import format_count

_SEED = SHADES[2]
_ROW_INCH, _WIDTH_INCH, _CHARACTER_INCH = 0.42, 4.2, 0.075


def write_pictures(summary: TableSummary, folder: Path) -> None:
    """Draws table.png, and costs.png where costs are known; needs no display."""
    pictures = {"table.png": draw_table(summary)}
    if summary.costs:
        pictures["costs.png"] = draw_costs(summary)
    for name, figure in pictures.items():
        temporary = folder / f".{name}.partial"
        figure.savefig(temporary, dpi=160, format="png")
        temporary.replace(folder / name)


def draw_table(summary: TableSummary) -> Figure:
    """Seen mAP left, unseen mAP right (if there is any), a line of the table each.

    Of runs over one domain, R1 left and mAP right.

    A large dot is the mean and its bar the sample standard deviation; small dots are the seeds. A
    dashed line carries on the mean of the table's reference row.
    """
    panels = [
        (quantity, title)
        for quantity, title in summary.quantities.plotted
        if any(row.estimate(quantity) for row in summary.rows)
    ]
    names = max(len(row.label) for row in summary.rows) * _CHARACTER_INCH
    size_inch = (
        names + 0.6 + _WIDTH_INCH * max(len(panels), 1),
        1.45 + _ROW_INCH * len(summary.rows),
    )
    figure = Figure(figsize=size_inch, facecolor="white")
    FigureCanvasAgg(figure)
    left, height = 0.15 / size_inch[0], size_inch[1]
    num_seeds = max(len(row.runs) for row in summary.rows)
    figure.text(
        left, 1 - 0.13 / height, summary.table.title, va="top", color=INK, weight="bold", size=12
    )
    uneven = "up to " if any(len(row.runs) != num_seeds for row in summary.rows) else ""
    words = "mAP (%), " if summary.quantities is OF_DOMAINS else "percent, "
    words += "epoch chosen on validation, " * (summary.table.checkpoint == "validation")
    spread = f"mean ± sample standard deviation over {uneven}{num_seeds} seeds"
    words += "one seed" if num_seeds == 1 else spread
    words += f"; dashed: {summary.row(summary.table.reference).label}"
    figure.text(left, 1 - 0.37 / height, words, va="top", color=SOFT, size=9.5)
    figure.set_layout_engine("constrained", rect=(left, 0, 1 - 2 * left, 1 - 0.65 / height))
    axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for each, (quantity, title) in zip(axes, panels, strict=False):
        _draw_panel(each, summary, quantity)
        each.set_title(title, color=SOFT, fontsize=10, loc="left")
    return figure


def _draw_panel(axes: Axes, summary: TableSummary, quantity: Quantity) -> None:
    reference = summary.row(summary.table.reference).estimate(quantity)
    if reference is not None:
        axes.axvline(reference.mean, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for height, row in enumerate(summary.rows):
        estimate = row.estimate(quantity)
        if estimate is None:
            continue
        if len(row.runs) > 1:
            values = [value for value in row.values(quantity).values() if value is not None]
            axes.plot(values, [height + 0.22] * len(values), "o", color=_SEED, markersize=3.5)
        axes.errorbar(
            estimate.mean, height, xerr=estimate.deviation or None, fmt="o", color=BLUE,
            markersize=6.5, elinewidth=1.8, capsize=3.5, zorder=3,
        )  # fmt: skip
        axes.annotate(
            f"{estimate.mean:.1f}", (estimate.mean, height), (0, 6), textcoords="offset points",
            ha="center", va="bottom", color=INK, fontsize=8.5, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    axes.set_yticks(range(len(summary.rows)), [row.label for row in summary.rows])
    axes.set_ylim(len(summary.rows) - 0.45, -0.65)
    axes.margins(x=0.12)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(length=0, labelcolor=INK)


_MARKERS = "os^Dv"


def draw_costs(summary: TableSummary) -> Figure:
    """Accuracy against latency: a dot for each row, bars for its seeds' deviation and its range."""
    figure = Figure(figsize=(7.4, 4.2), facecolor="white")
    FigureCanvasAgg(figure)
    accuracy = accuracy_of(summary)
    figure.text(0.02, 0.975, summary.table.title, va="top", color=INK, weight="bold", size=12)
    words = f"{accuracy.heading} (%) against milliseconds per gallery image, batches of {BATCH}"
    figure.text(0.02, 0.92, words, va="top", color=SOFT, size=9.5)
    figure.set_layout_engine("constrained", rect=(0.02, 0.02, 0.96, 0.85))
    axes = figure.subplots()
    for index, row in enumerate(summary.rows):
        mine = row.estimate(accuracy)
        if mine is None:
            continue
        times = summary.costs[row.name].image_ms
        middle = median(times)
        axes.errorbar(
            middle, mine.mean, yerr=mine.deviation or None,
            xerr=[[middle - min(times)], [max(times) - middle]],
            fmt=_MARKERS[index % len(_MARKERS)], color=COLOURS[index % len(COLOURS)],
            markersize=7, elinewidth=1.4, capsize=3, label=_named(row, summary.costs[row.name]),
        )  # fmt: skip
    axes.set_xlabel("ms per image, median and range", color=SOFT)
    axes.set_ylabel(f"{accuracy.heading} (%), mean ± sample standard deviation", color=SOFT)
    if axes.containers:
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK,
            fontsize=9, labelspacing=1.2,
        )  # fmt: skip
    axes.margins(x=0.12, y=0.12)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(SOFT)
    axes.tick_params(length=0, labelcolor=INK)
    return figure


def _named(row: Row, cost: FusionCost) -> str:
    return f"{row.label}\n{format_count(cost.num_parameters)} parameters"
