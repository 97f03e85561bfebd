"""List the runs in a folder, the newest first.

For each run: status, learner, benchmark, seed, scores after the last domain and
the settings that differ from its preset. Every command accepts the beginning of
a name that is shown here, or `latest`.
"""

from __future__ import annotations

import argparse
import time

from runner.commands._arguments import add_output_arguments, add_runs_folder, split_overrides
from runner.commands._output import Output

HELP = "list runs with status, scores and changed settings"
EXAMPLE = "demo-vladr --runs runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `list`."""
    parser.add_argument(
        "beginning", nargs="?", default="", metavar="NAME",
        help="list only runs whose names begin with this",
    )  # fmt: skip
    add_runs_folder(parser)
    parser.set_defaults(overrides=[])
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Prints the list."""
    from runner.results.run_list import list_runs, show_list
    from runner.results.run_lookup import runs_folder

    names, overrides = split_overrides([options.beginning, *options.overrides])
    if overrides:
        raise ValueError(f"{overrides[0]}: expected the beginning of a name; list has no overrides")
    folder = runs_folder(options.runs_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder of runs, found no folder {folder}; set --runs")
    entries = list_runs(folder, names[0])
    output.write_json([entry.to_json() for entry in entries])
    if entries:
        show_list(output.results, entries, time.time())
    else:
        of_name = f" whose name begins with {names[0]!r}" if names[0] else ""
        output.results.print(f"{folder} holds no run{of_name}.", soft_wrap=True)
    return 0
