"""Results of an ablation as text: console, Markdown, CSV and JSON.

Console and Markdown show rounded numbers. CSV and JSON hold unrounded numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.ablation.costs import costs_table
from runner.ablation.notes import notes
from runner.ablation.quantities import OF_DOMAINS, Quantity
from runner.ablation.summary import Row, TableSummary
from runner.results.finished_runs import Estimate
from runner.results.format import MISSING, format_count, format_estimate, format_score
from runner.results.table import Column, Table
from tasks.protocol.lock import lock_hash

_COSTS = (
    "num_fusion_parameters", "fusion_flops", "image_flops", "fusion_ms", "image_ms", "memory_bytes",
)  # fmt: skip
_ROW = Column("row", "", align="left", wrap=True, min_width=12)
_SEEDS = Column("seeds", wrap=True, min_width=5)
_NARROW_HEADINGS = {"trained parameters": "trained", "images/s": "images\n/s"}


def console_table(summary: TableSummary) -> Table:
    """All rows in a narrow form: several scores in a cell, deviations below the means."""
    quantities = summary.quantities
    if quantities is OF_DOMAINS:
        headings = ["seen\nmAP/R1", "unseen\nmAP/R1", "forget-\ning"]
        headings += ["trained", "bytes/\ndomain", "images\n/s"]
    else:
        headings = [_NARROW_HEADINGS.get(each.heading, each.heading) for each in quantities.all]
    rows = [
        (
            row.label,
            row.seeds,
            *(_stacked([row.estimate(each) for each in scores]) for scores in quantities.groups),
            *(_cost(row.estimate(each), each) for each in quantities.costs),
        )
        for row in summary.rows
    ]
    return Table((_ROW, _SEEDS, *map(Column, headings)), tuple(rows))


def full_table(summary: TableSummary) -> Table:
    """Means and deviations of all quantities by row."""
    quantities = summary.quantities
    headings = [f"{each.heading}{' %' * (each in quantities.scores)}" for each in quantities.all]
    rows = [
        (
            row.label,
            row.seeds,
            *(format_estimate(row.estimate(each)) for each in quantities.scores),
            *(_cost(row.estimate(each), each) for each in quantities.costs),
        )
        for row in summary.rows
    ]
    return Table((_ROW, _SEEDS, *map(Column, headings)), tuple(rows))


def published_table(summary: TableSummary) -> Table | None:
    """Scores next to published ones, for rows that have a published score; None without any."""
    rows = [row for row in summary.rows if row.published]
    quantities = [
        quantity
        for quantity in summary.quantities.scores
        if any(row.published and quantity.name in row.published.scores for row in rows)
    ]
    if not quantities:
        return None
    columns = [
        column
        for quantity in quantities
        for column in (Column(quantity.heading), Column("published", format=format_score))
    ]
    cells = [
        (row.label, *(value for each in quantities for value in _with_published(row, each)))
        for row in rows
    ]
    return Table((_ROW, *columns), tuple(cells))


def differences_table(summary: TableSummary) -> Table | None:
    """Differences from the reference rows, a line for each score; None without any."""
    rows: list[tuple[Any, ...]] = []
    for row in summary.rows:
        reference = summary.reference(row)
        labels = (row.label, reference.label if reference else "")
        for quantity in summary.quantities.compared:
            pair = summary.paired(row, quantity)
            if pair.estimate is None:
                continue
            values = " ".join(f"{value:+.1f}" for value in pair.by_seed.values())
            difference = format_estimate(pair.estimate, "+")
            rows.append((*labels, quantity.heading, difference, len(pair.by_seed), values))
            labels = ("", "")
    if not rows:
        return None
    columns = (
        _ROW,
        Column("reference", "minus", align="left", wrap=True),
        Column("score", "in", align="left"),
        Column("difference"),
        Column("n"),
        Column("by seed", wrap=True),
    )
    return Table(columns, tuple(rows))


def show(console: Console, summary: TableSummary) -> None:
    """Prints the tables and notes."""
    console.print(Text(summary.table.title, style="bold"))
    for table in (
        console_table(summary),
        differences_table(summary),
        published_table(summary),
        costs_table(summary),
    ):
        if table is not None:
            console.print(table.to_console())
            console.print()
    for note in notes(summary):
        style = "bold yellow" if note.startswith("Protocol locks differ") else "dim"
        console.print(Text(note, style=style), soft_wrap=True)


def to_markdown(summary: TableSummary) -> str:
    """Content of table.md."""
    parts = [f"# {summary.table.title}", summary.table.description.strip()]
    parts.append(full_table(summary).to_markdown())
    for heading, table in (
        ("Differences, seed by seed:", differences_table(summary)),
        ("Compared with published numbers:", published_table(summary)),
        ("What fusion costs:", costs_table(summary)),
    ):
        if table is not None:
            parts += [heading, table.to_markdown()]
    parts.append("\n".join(f"- {note}" for note in notes(summary)))
    return "\n\n".join(parts) + "\n"


def to_csv(summary: TableSummary) -> str:
    """Content of table.csv: a line for each row; missing numbers are empty fields."""
    quantities = summary.quantities
    names = ["row", "label", "num_seeds", "reference", "num_pairs"]
    names += [f"{each.name}{end}" for each in quantities.all for end in ("", "_deviation")]
    names += [
        f"{each.name}_difference{end}" for each in quantities.scores for end in ("", "_deviation")
    ]
    names += [f"published_{each.name}" for each in quantities.scores]
    names += _COSTS * bool(summary.costs)
    return Table.of(names, (_csv_row(summary, row) for row in summary.rows)).to_csv()


def to_json(summary: TableSummary) -> dict[str, Any]:
    """Content of table.json; docs/ablations.md describes it."""
    failures = [(each.row, each.seed, each.error) for each in summary.failures]
    return {
        "table": summary.name,
        "title": summary.table.title,
        "description": summary.table.description,
        "seeds": list(summary.seeds),
        "settings": list(summary.settings),
        "set": dict(summary.table.set),
        "reference": summary.table.reference,
        "checkpoint": summary.table.checkpoint,
        "git_revisions": summary.revisions,
        "protocol_locks": summary.locks,
        "protocol_lock_differences": [each.sentence for each in summary.lock_differences],
        "rows": [_row_json(summary, row) for row in summary.rows],
        "missing": Table.of(("row", "seed"), summary.missing).to_json(),
        "failures": Table.of(("row", "seed", "error"), failures).to_json(),
    }


def write_texts(summary: TableSummary) -> dict[str, str]:
    """Contents of table.json, table.csv and table.md by file name."""
    return {
        "table.json": json.dumps(to_json(summary), indent=1) + "\n",
        "table.csv": to_csv(summary),
        "table.md": to_markdown(summary),
    }


def _csv_row(summary: TableSummary, row: Row) -> list[Any]:
    quantities = summary.quantities
    pairs = [summary.paired(row, each) for each in quantities.scores]
    estimates = [
        *(row.estimate(each) for each in quantities.all),
        *(pair.estimate for pair in pairs),
    ]
    published = row.published.scores if row.published else {}
    return [
        *(row.name, row.label, len(row.runs), summary.table.reference_of(row.name)),
        max(len(pair.by_seed) for pair in pairs),
        *(value for each in estimates for value in _mean_and_deviation(each)),
        *(published.get(each.name) for each in quantities.scores),
        *(_csv_costs(summary, row) if summary.costs else ()),
    ]


def _csv_costs(summary: TableSummary, row: Row) -> tuple[float, ...]:
    cost = summary.costs[row.name]
    counts = (cost.num_parameters, cost.flops, cost.image_flops)
    return (*counts, median(cost.fusion_ms), median(cost.image_ms), cost.memory_bytes)


def _mean_and_deviation(estimate: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if estimate is None else (estimate.mean, estimate.deviation)


def _row_json(summary: TableSummary, row: Row) -> dict[str, Any]:
    reference, quantities = summary.table.reference_of(row.name), summary.quantities
    return {
        "name": row.name,
        "label": row.label,
        "set": summary.table.settings_of(row.name, real="--real" in summary.settings),
        "reference": reference,
        "runs": [
            {
                "seed": seed,
                "run": run.folder.name,
                "learner": run.config.learner.name,
                "preset": run.config.preset,
                "config_hash": run.config.hash,
                "git_revision": run.results.get("git_revision"),
                "protocol_lock": lock_hash(run.lock),
                **{each.name: row.values(each)[seed] for each in quantities.all},
            }
            for seed, run in row.runs.items()
        ],
        "estimates": {each.name: _estimate_json(row.estimate(each)) for each in quantities.all},
        "differences": {
            each.name: {
                "by_seed": {str(seed): value for seed, value in pair.by_seed.items()},
                "num_pairs": len(pair.by_seed),
                **(_estimate_json(pair.estimate) or {"mean": None, "deviation": None}),
            }
            for each in quantities.scores
            if reference is not None
            for pair in [summary.paired(row, each)]
        },
        "costs": asdict(summary.costs[row.name]) if row.name in summary.costs else None,
        "published": row.published
        and {
            "scores": dict(row.published.scores),
            "source": row.published.source,
            "remarks": list(row.published.remarks),
        },
    }


def _estimate_json(estimate: Estimate | None) -> dict[str, float | None] | None:
    return estimate and {"mean": estimate.mean, "deviation": estimate.deviation}


def _stacked(estimates: Sequence[Estimate | None]) -> str:
    """Means separated by slashes, with their deviations on a second line if all are known."""
    means = "/".join(format_score(each and each.mean) for each in estimates)
    deviations = [each.deviation for each in estimates if each and each.deviation is not None]
    if not deviations or len(deviations) < len(estimates):
        return means
    return f"{means}\n±{'/'.join(map(format_score, deviations))}"


def _cost(estimate: Estimate | None, quantity: Quantity) -> str:
    if estimate is None:
        return MISSING
    if quantity.name == "train_images_per_s":
        return f"{estimate.mean:.0f}"
    return format_count(estimate.mean)


def _with_published(row: Row, quantity: Quantity) -> tuple[str, float | None]:
    """Estimate of the row and the published number."""
    published = row.published.scores.get(quantity.name) if row.published else None
    return format_estimate(row.estimate(quantity)), published
