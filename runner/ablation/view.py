"""A table for the eye and for other programs: terminal, Markdown, CSV and JSON.

Terminal and Markdown show the same cells; CSV and JSON hold unrounded numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.ablation.costs import costs_cells
from runner.ablation.notes import notes
from runner.ablation.quantities import OF_DOMAINS, Quantity
from runner.ablation.summary import Row, TableSummary, lock_hash
from runner.results.finished_runs import Estimate
from runner.results.format import MISSING, large, written

_COSTS = (
    "num_fusion_parameters", "fusion_flops", "image_flops", "fusion_ms", "image_ms", "memory_bytes",
)  # fmt: skip
_LEAST_NAME = 12


@dataclass(frozen=True)
class Grid:
    """Headings and rows of text; cells may have two lines."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def screen_grid(summary: TableSummary) -> Grid:
    """Every row in as little width as the numbers need: deviations below the means."""
    found = summary.quantities
    if found is OF_DOMAINS:
        headings = ("seen\nmAP/R1", "unseen\nmAP/R1", "forget-\ning")
        headings += ("trained", "bytes/\ndomain", "images\n/s")
    else:
        headings = tuple(each.heading for each in found.all)
        headings = tuple(
            {"trained parameters": "trained", "images/s": "images\n/s"}.get(each, each)
            for each in headings
        )
    rows = [
        (
            row.label,
            str(len(row.runs)),
            *(_stacked([row.estimate(each) for each in scores]) for scores in found.by_two),
            *(_cost(row.estimate(each), each) for each in found.costs),
        )
        for row in summary.rows
    ]
    return Grid(("", "seeds", *headings), tuple(rows))


def numbers_grid(summary: TableSummary) -> Grid:
    """Every row's means and deviations, and what it costs."""
    found = summary.quantities
    headings = [f"{each.heading}{' %' * (each in found.scores)}" for each in found.all]
    rows = [
        (
            row.label,
            str(len(row.runs)),
            *(written(row.estimate(each)) for each in found.scores),
            *(_cost(row.estimate(each), each) for each in found.costs),
        )
        for row in summary.rows
    ]
    return Grid(("", "seeds", *headings), tuple(rows))


def published_grid(summary: TableSummary) -> Grid | None:
    """Published numbers beside ours, of the rows that have some."""
    rows = [row for row in summary.rows if row.published]
    printed = [
        quantity
        for quantity in summary.quantities.scores
        if any(row.published and quantity.name in row.published.scores for row in rows)
    ]
    if not printed:
        return None
    headings = [each for quantity in printed for each in (quantity.heading, "published")]
    cells = [
        (row.label, *(text for each in printed for text in _beside(row, each))) for row in rows
    ]
    return Grid(("", *headings), tuple(cells))


def differences_grid(summary: TableSummary) -> Grid | None:
    """Every row minus its reference: a line for each score with mean, deviation, and the seeds."""
    rows: list[tuple[str, ...]] = []
    for row in summary.rows:
        reference = summary.reference(row)
        names = (row.label, reference.label if reference else "")
        for quantity in summary.quantities.compared:
            pair = summary.paired(row, quantity)
            if pair.estimate is None:
                continue
            values = " ".join(f"{value:+.1f}" for value in pair.by_seed.values())
            difference = written(pair.estimate, "+")
            rows.append((*names, quantity.heading, difference, str(len(pair.by_seed)), values))
            names = ("", "")
    if not rows:
        return None
    return Grid(("", "minus", "in", "difference", "n", "by seed"), tuple(rows))


def costs_grid(summary: TableSummary) -> Grid | None:
    """What every row costs, if it is known."""
    if not summary.costs:
        return None

    headings, rows = costs_cells(summary)
    return Grid(headings, tuple(rows))


def show(console: Console, summary: TableSummary) -> None:
    """Prints the table."""
    console.print(Text(summary.table.title, style="bold"))
    for grid in (
        screen_grid(summary),
        differences_grid(summary),
        published_grid(summary),
        costs_grid(summary),
    ):
        if grid is not None:
            console.print(_rich(grid))
            console.print()
    for note in notes(summary):
        style = "bold yellow" if note.startswith("Protocol locks differ") else "dim"
        console.print(Text(note, style=style), soft_wrap=True)


def to_markdown(summary: TableSummary) -> str:
    """The page `table.md`."""
    parts = [f"# {summary.table.title}", summary.table.description.strip()]
    parts.append(_markdown(numbers_grid(summary)))
    if differences := differences_grid(summary):
        parts += ["Differences, seed by seed:", _markdown(differences)]
    if published := published_grid(summary):
        parts += ["Beside published numbers:", _markdown(published)]
    if costs := costs_grid(summary):
        parts += ["What fusion costs:", _markdown(costs)]
    parts.append("\n".join(f"- {note}" for note in notes(summary)))
    return "\n\n".join(parts) + "\n"


def to_csv(summary: TableSummary) -> str:
    """A line for each row; an empty field is a number that does not exist."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quantities = summary.quantities
    names = [each.name for each in quantities.all]
    writer.writerow(
        [
            *("row", "label", "num_seeds", "reference", "num_pairs"),
            *(f"{name}{end}" for name in names for end in ("", "_deviation")),
            *(
                f"{each.name}_difference{end}"
                for each in quantities.scores
                for end in ("", "_deviation")
            ),
            *(f"published_{each.name}" for each in quantities.scores),
            *_COSTS * bool(summary.costs),
        ]
    )
    for row in summary.rows:
        pairs = [summary.paired(row, each) for each in quantities.scores]
        estimates = [
            *(row.estimate(each) for each in quantities.all),
            *(pair.estimate for pair in pairs),
        ]
        printed = row.published.scores if row.published else {}
        writer.writerow(
            [
                *(row.name, row.label, len(row.runs), summary.table.reference_of(row.name) or ""),
                max(len(pair.by_seed) for pair in pairs),
                *(value for each in estimates for value in _pair_of(each)),
                *(printed.get(each.name, "") for each in quantities.scores),
                *(_costs_of(summary, row) if summary.costs else ()),
            ]
        )
    return text.getvalue()


def to_json(summary: TableSummary) -> dict[str, Any]:
    """What table.json holds; see docs/ablations.md."""
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
        "missing": [{"row": row, "seed": seed} for row, seed in summary.missing],
        "failures": [
            {"row": each.row, "seed": each.seed, "error": each.error} for each in summary.failures
        ],
    }


def write_texts(summary: TableSummary) -> dict[str, str]:
    """Content of table.json, table.csv and table.md by file name."""
    return {
        "table.json": json.dumps(to_json(summary), indent=1) + "\n",
        "table.csv": to_csv(summary),
        "table.md": to_markdown(summary),
    }


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


def _estimate_json(estimated: Estimate | None) -> dict[str, float | None] | None:
    return estimated and {"mean": estimated.mean, "deviation": estimated.deviation}


def _costs_of(summary: TableSummary, row: Row) -> tuple[float, ...]:
    cost = summary.costs[row.name]
    counted = (cost.num_parameters, cost.flops, cost.image_flops)
    return (*counted, median(cost.fusion_ms), median(cost.image_ms), cost.memory_bytes)


def _pair_of(estimated: Estimate | None) -> tuple[Any, Any]:
    if estimated is None:
        return "", ""
    return estimated.mean, "" if estimated.deviation is None else estimated.deviation


def _stacked(estimates: Sequence[Estimate | None]) -> str:
    """Means with a stroke between them, and their deviations below."""
    means = "/".join(MISSING if each is None else f"{each.mean:.1f}" for each in estimates)
    deviations = [each.deviation for each in estimates if each is not None]
    known = [each for each in deviations if each is not None]
    if not known or len(known) < len(estimates):
        return means
    return f"{means}\n±{'/'.join(f'{each:.1f}' for each in known)}"


def _cost(estimated: Estimate | None, quantity: Quantity) -> str:
    if estimated is None:
        return MISSING
    if quantity.name == "train_images_per_s":
        return f"{estimated.mean:.0f}"
    return large(estimated.mean)


def _beside(row: Row, quantity: Quantity) -> tuple[str, str]:
    """Ours and the published number."""
    value = row.published.scores.get(quantity.name) if row.published else None
    return written(row.estimate(quantity)), MISSING if value is None else f"{value:.1f}"


def _rich(grid: Grid) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    for index, heading in enumerate(grid.headings):
        if index:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        else:
            table.add_column(Text(heading), overflow="fold", min_width=_LEAST_NAME)
    for cells in grid.rows:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _markdown(grid: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        return f"| {' | '.join(escaped)} |"

    rule = "|".join(["", "---", *("---:" for _ in grid.headings[1:]), ""])
    return "\n".join([line(grid.headings), rule, *(line(cells) for cells in grid.rows)])
