"""What the rows of a table cost where a gallery image is embedded, beside their scores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runner.ablation.cells import Cell
from runner.ablation.quantities import Quantity
from runner.ablation.summary import Row, TableSummary
from runner.plotting.style import COLOURS, INK, RULE, SOFT
from runner.profiling.fusion_cost import BATCH, FusionCost, measure_costs
from runner.results.format import large
from runner.results.run_folder import write_atomically

REPEATS = 5
_MARKERS = "os^Dv"
NOTES = (
    "Parameters and FLOPs are the fusion's; image FLOPs are of all that embeds an image with its "
    "description. They are of one image, a multiplication and an addition being two, of matrix "
    "products, attention, convolutions and the states of Mamba's scan (9 each in every position); "
    "activations, norms and other sums are left out.",
    f"ms: of an image in a batch of {BATCH}, embedded with its description, median and range of "
    f"{REPEATS} turns of all rows, on one CPU thread or a GPU; times: of the reference row's, turn "
    "by turn. They compare inside this table alone.",
    "Memory: most that a batch holds at once beyond parameters and inputs; on a GPU all that torch "
    "allocates, on the CPU the tensors that operations return.",
)


def costs_of(folder: Path, cells: Sequence[Cell], *, measure: bool) -> dict[str, FusionCost]:
    """The cost of every row: as it was measured before, else measured now and kept.

    Args:
        folder: the table's.
        cells: of all rows.
        measure: false: nothing is measured, and nothing is known where it was not before.
    """
    configs = {cell.row: cell.config.model_copy(update={"seed": 0}) for cell in reversed(cells)}
    configs = {row: configs[row] for row in dict.fromkeys(cell.row for cell in cells)}
    hashes = {row: config.hash for row, config in configs.items()}
    file = folder / "costs.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(file.read_text())
        if found["config_hashes"] == hashes:
            return {row: _cost(values) for row, values in found["costs"].items()}
    if not measure:
        return {}
    costs = measure_costs(configs, REPEATS)
    values = {row: asdict(cost) for row, cost in costs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"config_hashes": hashes, "costs": values}, indent=1) + "\n")
    return costs


def costs_cells(summary: TableSummary) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of the table of costs."""
    accuracy = accuracy_of(summary)
    reference = summary.costs[summary.table.reference]
    headings = ("", "parameters", "FLOPs", "image\nFLOPs", "ms", "times", "memory")
    rows: list[tuple[str, ...]] = []
    for row in summary.rows:
        cost, mine = summary.costs[row.name], row.estimate(accuracy)
        times = median(
            ours / theirs for ours, theirs in zip(cost.image_ms, reference.image_ms, strict=True)
        )
        rows.append(
            (
                row.label,
                large(cost.num_parameters),
                large(cost.flops),
                large(cost.image_flops),
                f"{median(cost.image_ms):.3g}\n{min(cost.image_ms):.3g}-{max(cost.image_ms):.3g}",
                f"{times:.2f}",
                f"{large(cost.memory_bytes)}B",
                "·" if mine is None else f"{mine.mean:.1f}",
            )
        )
    return (*headings, accuracy.heading), rows


def accuracy_of(summary: TableSummary) -> Quantity:
    """The score that costs are set against: the first that the picture shows."""
    return summary.quantities.drawn[0][0]


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
    return f"{row.label}\n{large(cost.num_parameters)} parameters"


def _cost(values: Mapping[str, Any]) -> FusionCost:
    times = {name: tuple(values[name]) for name in ("fusion_ms", "image_ms")}
    return FusionCost(**{**values, **times})
