"""Run an ablation table: every row with every seed, averaged and compared.

Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands._arguments import add_output_arguments, add_overrides, split_overrides
from runner.commands._output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from runner.ablation.cells import Cell, Key
    from runner.ablation.summary import Failure, TableSummary
    from runner.ablation.table_file import TableConfig
    from runner.results.finished_runs import FinishedRun

HELP = "run the missing cells of an ablation table and show the table"
EXAMPLE = "vladr-ablation --seeds 0,1,2 --jobs 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ablate`."""
    parser.add_argument(
        "table", nargs="?", metavar="TABLE",
        help="name of a table, or a YAML file; without it, all tables are listed",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", default="0,1,2", help="seeds, separated by commas (default: 0,1,2)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs at the same time (default: one per CPU or GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--rows", nargs="+", action="extend", default=[], metavar="NAME",
        help="run only these rows; the table still shows all finished rows",
    )  # fmt: skip
    parser.add_argument(
        "--real", action="store_true", help="use the presets of the rows for real data sets"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what is finished and what is missing"
    )
    add_overrides(parser, "overrides of all rows, such as storage.root=...")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Runs the missing cells and prints the table."""
    if options.table is None:
        return _list_tables(output)

    from runner.ablation.cells import check_rows, plan_cells, read_cells, table_folder
    from runner.ablation.table_file import load_table
    from runner.config.hashed_fields import in_hash

    chosen, overrides = split_overrides([*options.rows, *options.overrides])
    seeds = _seeds(options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, got {options.jobs}")
    name, table = load_table(options.table)
    check_rows(table, chosen)
    cells = plan_cells(table, seeds, overrides, real=options.real)
    cells[0].config.tracking.usable_uri()  # an unusable URI is an error before the first run
    folder = table_folder(name, cells, overrides, options.real)
    # Storage and tracking settings do not change results and may hold a password.
    settings = [each for each in overrides if in_hash(each.partition("=")[0])]
    settings = ["--real"] * options.real + settings
    finished = read_cells(cells)
    wanted = [cell for cell in cells if not chosen or cell.row in chosen]
    missing = [cell for cell in wanted if cell.key not in finished]
    failures: list[Failure] = []
    if options.dry_run:
        _show_plan(output.results, table, cells, finished, missing, options.jobs)
    elif missing:
        failures = _run_missing(output.progress, table, cells, finished, missing, options.jobs)
        finished = read_cells(cells)
    else:
        output.note(f"All {len(wanted)} runs were already finished.")
    summary = _summarise(name, table, seeds, settings, finished, failures)
    if table.measures and summary.runs:
        summary = _with_costs(output.status, summary, folder, cells, measure=not options.dry_run)
    return _present(output, summary, folder, cells[0], send=not options.dry_run)


def _list_tables(output: Output) -> int:
    from runner.ablation.table_file import load_table, table_names

    tables = {name: load_table(name)[1] for name in table_names()}
    output.write_json(
        [
            {"name": name, "title": table.title, "num_rows": len(table.rows)}
            for name, table in tables.items()
        ]
    )
    for name, table in tables.items():
        output.results.print(f"{name:18s} {table.title} ({len(table.rows)} rows)")
    return 0


def _seeds(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds: expected numbers like 0,1,2; got {text!r}") from error


def _run_missing(
    console: Console,
    table: TableConfig,
    cells: Sequence[Cell],
    finished: Mapping[Key, FinishedRun],
    missing: Sequence[Cell],
    jobs: int | None,
) -> list[Failure]:
    """Runs the missing cells, prints a line for each, and returns the failures."""
    from runner.ablation.cells import check_data
    from runner.ablation.console import ProgressLines, show_plan, time_estimator
    from runner.ablation.run import ray_jobs, run_cells
    from runner.ablation.summary import Failure
    from runner.on_ray.shared_images import share_images

    benchmarks = check_data(missing, finished)
    times = time_estimator(table, cells, finished)
    with ray_jobs(missing, jobs) as num_jobs:
        show_plan(console, table, cells, len(finished), missing, times, num_jobs)
        lines = ProgressLines(console, times, len(missing), num_jobs, table.checkpoint)
        shared = share_images(benchmarks, missing[0].config)
        console.print(str(shared), highlight=False)
        try:
            endings = run_cells(missing, num_jobs, lines.show, shared)
        except KeyboardInterrupt:
            console.print(
                f"{lines.num_ended} of {len(missing)} runs ended; run the same command again to "
                "resume the others from their last checkpoints"
            )
            raise
    return [
        Failure(each.cell.row, each.cell.seed, each.error)
        for each in endings
        if each.error is not None
    ]


def _show_plan(
    console: Console,
    table: TableConfig,
    cells: Sequence[Cell],
    finished: Mapping[Key, FinishedRun],
    missing: Sequence[Cell],
    jobs: int | None,
) -> None:
    import os

    from runner.ablation.cells import missing_texts, missing_texts_message
    from runner.ablation.console import show_plan, time_estimator

    if texts := missing_texts(missing):
        message = missing_texts_message(texts, dict.fromkeys(cell.row for cell in missing))
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    places = max(1, min(jobs or len(os.sched_getaffinity(0)), len(missing)))
    times = time_estimator(table, cells, finished)
    show_plan(console, table, cells, len(finished), missing, times, places)


def _summarise(
    name: str,
    table: TableConfig,
    seeds: Sequence[int],
    settings: Sequence[str],
    finished: Mapping[Key, FinishedRun],
    failures: Sequence[Failure],
) -> TableSummary:
    from runner.ablation.summary import summarise
    from runner.results.published import load_published

    return summarise(name, table, seeds, settings, finished, load_published(), failures)


def _with_costs(
    console: Console, summary: TableSummary, folder: Path, cells: Sequence[Cell], *, measure: bool
) -> TableSummary:
    """Adds the measured costs of the rows; each is measured only once."""
    from dataclasses import replace

    from runner.ablation.costs import costs_of

    with console.status("Measuring costs"):
        return replace(summary, costs=costs_of(folder, cells, measure=measure))


def _present(output: Output, summary: TableSummary, folder: Path, cell: Cell, *, send: bool) -> int:
    """Writes, prints and sends the table; returns the exit status."""
    from runner.ablation.plot import write_figures
    from runner.ablation.view import show, to_json, write_texts
    from runner.results.run_folder import write_atomically

    output.write_json({"folder": str(folder), **to_json(summary)})
    if summary.runs:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in write_texts(summary).items():
            write_atomically(folder / file, text)
        write_figures(summary, folder)
        show(output.results, summary)
        output.note(f"Table     {folder}/table.md, .json, .csv, .png")
        if send:
            _send(output, summary, folder, cell)
    for failure in summary.failures:
        output.results.print(f"failed: {failure.row} seed {failure.seed}", style="bold red")
        output.results.print(failure.error, soft_wrap=True)
    locks_differ = len(summary.locks) > 1 and not summary.varies_data
    return 1 if summary.failures or locks_differ else 0


def _send(output: Output, summary: TableSummary, folder: Path, cell: Cell) -> None:
    from runner.ablation.mlflow import send_table
    from runner.experiment import tracking_uri
    from runner.tracking.mlflow_client import TrackingError

    uri = tracking_uri(cell.config)
    if uri is None:
        return
    settings = cell.config.tracking.model_copy(update={"uri": uri})
    try:
        num_sent = send_table(folder, summary, settings)
    except TrackingError as error:
        output.warnings.print(
            f"Tracking  {error}. The table is written; run the same command again to send it.",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
        return
    output.note(f"Tracking  {num_sent} MLflow runs created or updated")
