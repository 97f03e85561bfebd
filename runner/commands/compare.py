"""`compare`: finished runs beside one another and beside published results.

Says where their protocols differ before it prints a number.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from rich.console import Console

HELP = "finished runs side by side, with published results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, what is shown of them, where they are."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="names of runs under storage.root, or their folders; storage.root=... among them "
        "says where names are looked up",
    )  # fmt: skip
    parser.add_argument(
        "--metric", choices=("mAP", "R1", "both"), default="both",
        help="what is shown (default: both; for text queries these are R1, R5, R10 and mAP)",
    )  # fmt: skip
    parser.add_argument("--unseen", action="store_true", help="show every unseen domain")
    parser.add_argument("--no-published", action="store_true", help="leave published rows out")
    parser.add_argument("--json", action="store_true", help="print JSON, with unrounded numbers")
    parser.set_defaults(overrides=[])


def main(options: argparse.Namespace) -> int:
    """Compares and shows; returns the exit status."""
    import json

    from runner.results.comparison import compare_runs
    from runner.results.comparison_view import show_comparison, shown_metrics
    from runner.results.finished_runs import read_finished
    from runner.results.published import PublishedResults, load_published

    names, storage_root = _runs_and_root([*options.runs, *options.overrides])
    runs = [read_finished(name, storage_root) for name in names]
    nothing = PublishedResults(sources={}, remarks={}, rows=())
    literature = nothing if options.no_published else load_published()
    comparison = compare_runs(runs, literature, every_unseen=options.unseen)
    if options.json:
        print(json.dumps(comparison.to_json(), indent=1))
    else:
        metrics = shown_metrics(comparison, options.metric)
        show_comparison(Console(), comparison, metrics)
    return 0


def _runs_and_root(given: Iterable[str]) -> tuple[list[str], str]:
    """Tells runs from `storage.root=...`.

    Raises:
        ValueError: no run, or another setting.
    """
    runs: list[str] = []
    root = "runs"
    for each in given:
        key, separator, value = each.partition("=")
        if separator and key == "storage.root":
            root = value
        elif separator and "/" not in key:
            raise ValueError(f"{each}: only storage.root=... can be set here")
        else:
            runs.append(each)
    if not runs:
        raise ValueError(
            "expected at least one run: its name under storage.root, or its folder. One run alone "
            "is set beside published results."
        )
    return runs, root
