"""`ablate`: a table of runs, rows x seeds, run side by side, averaged and compared."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.ablation.cells import Cell, Key
    from runner.ablation.summary import Failure, TableSummary
    from runner.ablation.table_file import TableConfig
    from runner.results.finished_runs import FinishedRun

HELP = "run a table of rows x seeds, or what is missing of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Table, seeds, what of it, overrides."""
    parser.add_argument(
        "table", nargs="?", metavar="TABLE", help="a table's name or a YAML file; default: list all"
    )
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (default: 0,1,2)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side (default: a CPU or GPU each)"
    )
    parser.add_argument(
        "--rows", nargs="+", action="extend", default=[], metavar="NAME",
        help="run only these rows; the table still shows all that is finished",
    )  # fmt: skip
    parser.add_argument(
        "--real", action="store_true", help="begin with the rows' presets for real data"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="run nothing: show what is finished and missing"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all rows, such as storage.root=..."
    )


def main(options: argparse.Namespace) -> int:
    """Runs what is missing and shows the table; returns the exit status."""
    console = Console()
    if options.table is None:
        return _list_tables(console)

    from runner.ablation.cells import check_rows, plan_cells, read_cells, table_folder
    from runner.ablation.table_file import load_table
    from runner.config.run_config import in_hash

    # An override behind the last name is taken for one more name.
    chosen = [name for name in options.rows if "=" not in name]
    overrides = [name for name in options.rows if "=" in name] + options.overrides
    seeds = _seeds(options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, got {options.jobs}")
    name, table = load_table(options.table)
    check_rows(table, chosen)
    cells = plan_cells(table, seeds, overrides, real=options.real)
    folder = table_folder(name, cells, overrides, options.real)
    # Where things are kept says nothing of the numbers, and may hold a password.
    settings = [each for each in overrides if in_hash(each.partition("=")[0])]
    settings = ["--real"] * options.real + settings
    finished = read_cells(cells)
    wanted = [cell for cell in cells if not chosen or cell.row in chosen]
    missing = [cell for cell in wanted if cell.key not in finished]
    failures: list[Failure] = []
    if options.dry_run:
        _show_what_is_there(console, table, cells, finished, missing, options.jobs)
    elif missing:
        failures = _run_missing(console, table, cells, finished, missing, options.jobs)
        finished = read_cells(cells)
    else:
        console.print(f"All of {len(wanted)} runs were finished before.")
    summary = _summarise(name, table, seeds, settings, finished, failures)
    if table.measures and summary.runs:
        summary = _with_costs(console, summary, folder, cells, measure=not options.dry_run)
    return _present(console, summary, folder, cells[0], send=not options.dry_run)


def _list_tables(console: Console) -> int:
    from runner.ablation.table_file import load_table, table_names

    for name in table_names():
        _, table = load_table(name)
        console.print(f"{name:18s} {table.title} ({len(table.rows)} rows)", highlight=False)
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
    """Runs them, a line for each that ends; what failed is returned."""
    from runner.ablation.cells import check_data
    from runner.ablation.console import Lines, clock_of, show_plan
    from runner.ablation.run import run_cells, workplace
    from runner.ablation.summary import Failure

    check_data(missing, finished)
    times = clock_of(table, cells, finished)
    with workplace(missing, jobs) as side_by_side:
        show_plan(console, table, cells, len(finished), missing, times, side_by_side)
        lines = Lines(console, times, len(missing), side_by_side, table.checkpoint)
        try:
            endings = run_cells(missing, side_by_side, lines.ended)
        except KeyboardInterrupt:
            console.print(
                f"{lines.num_ended} of {len(missing)} runs ended; the same command runs the rest, "
                "from their last checkpoints"
            )
            raise
    return [
        Failure(each.cell.row, each.cell.seed, each.error)
        for each in endings
        if each.error is not None
    ]


def _show_what_is_there(
    console: Console,
    table: TableConfig,
    cells: Sequence[Cell],
    finished: Mapping[Key, FinishedRun],
    missing: Sequence[Cell],
    jobs: int | None,
) -> None:
    import os

    from runner.ablation.console import clock_of, show_plan

    places = max(1, min(jobs or len(os.sched_getaffinity(0)), len(missing)))
    times = clock_of(table, cells, finished)
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
    """The table with what its rows cost, which is measured once."""
    from dataclasses import replace

    from runner.ablation.costs import costs_of

    with console.status("Measuring what rows cost"):
        return replace(summary, costs=costs_of(folder, cells, measure=measure))


def _present(
    console: Console, summary: TableSummary, folder: Path, cell: Cell, *, send: bool
) -> int:
    """Shows, writes and sends the table; returns the exit status."""
    from runner.ablation.plot import write_plots
    from runner.ablation.view import show, write_texts
    from runner.results.run_folder import write_atomically

    if summary.runs:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in write_texts(summary).items():
            write_atomically(folder / file, text)
        write_plots(summary, folder)
        show(console, summary)
        console.print(f"Table     {folder}/table.md, .json, .csv, .png", soft_wrap=True)
        if send:
            _send(console, summary, folder, cell)
    for failure in summary.failures:
        console.print(f"failed: {failure.row} seed {failure.seed}", style="bold red", markup=False)
        console.print(failure.error, markup=False, highlight=False, soft_wrap=True)
    unlike = len(summary.locks) > 1 and not summary.varies_data
    return 1 if summary.failures or unlike else 0


def _send(console: Console, summary: TableSummary, folder: Path, cell: Cell) -> None:
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
        console.print(
            f"Tracking  {error}. The table is written; the same command sends it later.",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
        return
    console.print(f"Tracking  {num_sent} MLflow runs created or updated", soft_wrap=True)
