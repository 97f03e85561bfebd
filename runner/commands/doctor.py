"""`doctor`: what there is of the data sets, what is wrong with it, and what to do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from runner.commands.run import add_config_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.doctor.examine import Report
    from tasks.benchmarks import BenchmarkConfig

HELP = "look at the data sets on disk: what is there, what is wrong, what to do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Root, data sets, how deep and in which form; preset and overrides."""
    parser.add_argument("--root", metavar="DIR", help="folder of the data sets")
    parser.add_argument(
        "--dataset", nargs="+", action="extend", default=[], metavar="NAME",
        help="look only at these (default: at every one that can be read)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument("--deep", action="store_true", help="decode every image, on all cores")
    add_config_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Looks, and says what it found; returns 0 whatever that is.

    Raises:
        ValueError, FileNotFoundError: it could not look: an unknown data set, no such root.
    """
    from pathlib import Path

    from runner.doctor.examine import check_names, examine
    from runner.doctor.view import show
    from tasks.reading import dataset_names

    # An override behind the last name is taken for one more name.
    asked_for = [name for name in options.dataset if "=" not in name]
    overrides = [name for name in options.dataset if "=" in name] + options.overrides
    check_names(asked_for, "--dataset")
    settings = _settings(options, overrides)
    check_names(list(settings.roots), "benchmark.roots")
    check_names(list(settings.split_files), "benchmark.split_files")
    root = Path(settings.root)
    reports = examine(list(dict.fromkeys(asked_for)) or dataset_names(), root, settings)
    if options.deep:
        reports = _open_images(reports)
    if options.json:
        print(json.dumps({name: report.to_json() for name, report in reports.items()}, indent=1))
    else:
        show(Console(), reports, root, asked_for)
    return 0


def _settings(options: argparse.Namespace, overrides: Sequence[str]) -> BenchmarkConfig:
    from runner.config.run_config import load_config
    from runner.experiment import resolve_folders

    settings = load_config(options.preset, overrides).benchmark
    if options.root is not None:
        settings = settings.model_copy(update={"root": os.path.abspath(options.root)})
    return resolve_folders(settings)


def _open_images(reports: Mapping[str, Report]) -> dict[str, Report]:
    from runner.doctor.examine import examine_images, images_of

    num_images = len(images_of(reports))
    with _progress(num_images) as opened:
        return examine_images(reports, opened)


@contextmanager
def _progress(num_images: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; where that is no terminal, one line."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"opening {num_images:,} images ...", file=sys.stderr, flush=True)
        yield lambda _: None
        return
    columns = (TextColumn("opening images"), BarColumn(24), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
        console=console, transient=True,
        refresh_per_second=4, redirect_stdout=False, redirect_stderr=False,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=num_images, speed="")

        def opened(number: int) -> None:
            speed = progress.tasks[task].finished_speed or progress.tasks[task].speed or 0.0
            progress.update(task, advance=number, speed=f"{speed:.0f} images/s")

        yield opened
