"""Check the data sets on disk: what is present, what is wrong, how to fix it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner.commands._arguments import (
    add_config_arguments,
    add_output_arguments,
    add_renamed,
    benchmark_settings,
    split_overrides,
)
from runner.commands._output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from runner.doctor.examine import Report

HELP = "check the data sets on disk: what is present, what is wrong, how to fix it"
EXAMPLE = "--data /data/reid --dataset market1501"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `doctor`."""
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: benchmark.root)"
    )
    add_renamed(parser, "--root", "--data")
    parser.add_argument(
        "--dataset", nargs="+", action="extend", default=[], metavar="NAME",
        help="check only these data sets (default: all supported ones)",
    )  # fmt: skip
    parser.add_argument(
        "--table", metavar="FILE", help="check a CSV or Parquet file of images instead of data sets"
    )
    parser.add_argument(
        "--template", action="store_true", help="create the CSV file of --table with example rows"
    )
    parser.add_argument("--deep", action="store_true", help="decode every image, on all cores")
    add_config_arguments(parser)
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Checks the data sets and prints the problems; returns 0 even if there are problems.

    Raises:
        ValueError, FileNotFoundError: The check is impossible: an unknown data set, or the folder
            of the data sets does not exist.
    """
    from pathlib import Path

    from runner.config.run_config import load_config
    from runner.doctor.examine import check_names, examine, examine_table
    from runner.doctor.view import show
    from tasks.reading import dataset_names

    if options.template:
        return _write_template(options.table, output)
    datasets, overrides = split_overrides([*options.dataset, *options.overrides])
    check_names(datasets, "--dataset")
    settings = benchmark_settings(load_config(options.preset, overrides), options.data)
    check_names(list(settings.roots), "benchmark.roots")
    check_names(list(settings.split_files), "benchmark.split_files")
    root = Path(settings.root)
    if options.table is None:
        reports = examine(list(dict.fromkeys(datasets)) or dataset_names(), root, settings)
    else:
        table = settings.table.model_copy(update={"file": options.table})
        reports = examine_table(root, settings.model_copy(update={"table": table}))
        root, datasets = Path(options.table), list(reports)
    if options.deep:
        reports = _open_images(reports, output.status)
    output.write_json({name: report.to_json() for name, report in reports.items()})
    show(output.results, reports, root, datasets)
    return 0


def _write_template(table: str | None, output: Output) -> int:
    """Writes example rows to the file of --table."""
    from pathlib import Path

    from tasks.table_export import write_template

    if table is None:
        raise ValueError("--template: expected --table FILE, the CSV file to create")
    write_template(Path(table))
    output.write_json({"file": table})
    output.results.print(f"{table}: replace the example rows by your images", soft_wrap=True)
    return 0


def _open_images(reports: Mapping[str, Report], console: Console) -> dict[str, Report]:
    from runner.doctor.examine import examine_images, images_of

    num_images = len(images_of(reports))
    with _progress(num_images, console) as on_opened:
        return examine_images(reports, on_opened)


@contextmanager
def _progress(num_images: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar, or a single line if the console is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if not console.is_terminal:
        console.print(f"opening {num_images:,} images ...", soft_wrap=True)
        yield lambda _: None
        return
    columns = (TextColumn("opening images"), BarColumn(24), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
        console=console, transient=True,
        refresh_per_second=4, redirect_stdout=False, redirect_stderr=False,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=num_images, speed="")

        def on_opened(count: int) -> None:
            speed = progress.tasks[task].finished_speed or progress.tasks[task].speed or 0.0
            progress.update(task, advance=count, speed=f"{speed:.0f} images/s")

        yield on_opened
