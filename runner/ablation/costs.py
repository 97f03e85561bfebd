"""Fusion costs of the rows of a table: parameters, FLOPs, latency and memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from runner.ablation.cells import Cell
from runner.ablation.notes import REPEATS
from runner.ablation.quantities import Quantity
from runner.ablation.summary import TableSummary
from runner.profiling.fusion_cost import FusionCost, measure_costs
from runner.results.format import format_count, format_score
from runner.results.run_folder import write_atomically
from runner.results.table import Column, Table


def costs_of(folder: Path, cells: Sequence[Cell], *, measure: bool) -> dict[str, FusionCost]:
    """Reads the cost of every row from costs.json, or measures and stores it.

    Args:
        folder: folder of the table.
        cells: cells of all rows.
        measure: whether to measure costs that are not stored; otherwise the result is empty.
    """
    configs = {cell.row: cell.config.model_copy(update={"seed": 0}) for cell in reversed(cells)}
    configs = {row: configs[row] for row in dict.fromkeys(cell.row for cell in cells)}
    hashes = {row: config.hash for row, config in configs.items()}
    file = folder / "costs.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(file.read_text())
        if stored["config_hashes"] == hashes:
            return {row: _cost(values) for row, values in stored["costs"].items()}
    if not measure:
        return {}
    costs = measure_costs(configs, REPEATS)
    values = {row: asdict(cost) for row, cost in costs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"config_hashes": hashes, "costs": values}, indent=1) + "\n")
    return costs


def costs_table(summary: TableSummary) -> Table | None:
    """Cost of every row next to its accuracy; None if the costs are unknown."""
    if not summary.costs:
        return None
    accuracy = accuracy_of(summary)
    reference = summary.costs[summary.table.reference]
    rows: list[tuple[str, ...]] = []
    for row in summary.rows:
        cost, estimate = summary.costs[row.name], row.estimate(accuracy)
        ratios = [
            row_ms / reference_ms
            for row_ms, reference_ms in zip(cost.image_ms, reference.image_ms, strict=True)
        ]
        rows.append(
            (
                row.label,
                format_count(cost.num_parameters),
                format_count(cost.flops),
                format_count(cost.image_flops),
                f"{median(cost.image_ms):.3g}\n{min(cost.image_ms):.3g}-{max(cost.image_ms):.3g}",
                f"{median(ratios):.2f}",
                f"{format_count(cost.memory_bytes)}B",
                format_score(estimate and estimate.mean),
            )
        )
    headings = ("parameters", "FLOPs", "image\nFLOPs", "ms", "times", "memory", accuracy.heading)
    label = Column("row", "", align="left", wrap=True, min_width=12)
    return Table((label, *map(Column, headings)), tuple(rows))


def accuracy_of(summary: TableSummary) -> Quantity:
    """Score that costs are compared with: the first one in the figure."""
    return summary.quantities.plotted[0][0]


def _cost(values: Mapping[str, Any]) -> FusionCost:
    times = {name: tuple(values[name]) for name in ("fusion_ms", "image_ms")}
    return FusionCost(**{**values, **times})
