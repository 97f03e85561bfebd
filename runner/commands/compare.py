"""Compare finished runs with one another and with published results.

Differing settings and protocols are printed before the scores. Runs that differ
only in the seed form one row, and rows with common seeds are compared seed by
seed. Runs of one method on several data sets, each learned alone, share a row:
one column per data set.
"""

from __future__ import annotations

import argparse

from runner.commands._arguments import add_output_arguments, add_runs_folder, split_overrides
from runner.commands._output import Output

HELP = "compare finished runs with one another and with published results"
EXAMPLE = "RUN_A RUN_B --metric mAP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `compare`."""
    parser.add_argument(
        "names", nargs="*", metavar="RUN",
        help="folders of runs; or in the folder of runs their names, beginnings of names that "
        "fit one run, or `latest`",
    )  # fmt: skip
    add_runs_folder(parser)
    parser.add_argument(
        "--metric", choices=("mAP", "R1", "both"), default="both",
        help="scores to show (default: both; for text queries these are R1, R5, R10 and mAP)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", choices=("validation", "last"), default="validation",
        help="validation: test scores of the epoch selected on validation identities, for runs "
        "that selected one; last: of the end of training (default: validation)",
    )  # fmt: skip
    parser.add_argument("--unseen", action="store_true", help="show every unseen domain")
    published = parser.add_mutually_exclusive_group()
    published.add_argument(
        "--published", action="extend", nargs="+", default=[], metavar="BENCHMARK",
        help="show the published results of these benchmarks too; needs no run. Without it, "
        "those of the runs' benchmarks are shown",
    )  # fmt: skip
    published.add_argument("--no-published", action="store_true", help="omit published results")
    parser.add_argument(
        "--format", choices=("console", "markdown", "latex", "csv"), default="console",
        help="print the scores as one table in this format (default: console)",
    )  # fmt: skip
    parser.set_defaults(overrides=[])
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Compares the runs and prints the tables."""
    from runner.results.comparison import compare_runs
    from runner.results.comparison_export import export
    from runner.results.comparison_view import show_comparison, shown_metrics
    from runner.results.finished_runs import read_finished
    from runner.results.published import PublishedResults, load_published

    names, overrides = split_overrides([*options.names, *options.overrides])
    _refuse_overrides(overrides)
    if not names and not options.published:
        raise ValueError(
            "expected at least one run: its name in the folder of runs, or its folder. A single "
            "run is compared with published results; --published BENCHMARK shows these alone."
        )
    runs = [read_finished(name, options.runs_folder) for name in names]
    nothing = PublishedResults(sources={}, remarks={}, rows=())
    published = nothing if options.no_published else load_published()
    comparison = compare_runs(
        runs,
        published,
        every_unseen=options.unseen,
        checkpoint=options.checkpoint,
        benchmarks=options.published,
    )
    output.write_json(comparison.to_json())
    metrics = shown_metrics(comparison, options.metric)
    if options.format == "console":
        show_comparison(output.results, comparison, metrics)
    else:
        text = export(comparison, metrics, options.format)
        output.results.print(text, end="", soft_wrap=True)
    return 0


def _refuse_overrides(overrides: list[str]) -> None:
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "storage.root":
            raise ValueError(f"{override}: storage.root=... is now --runs {value}")
        raise ValueError(f"{override}: expected names of runs; compare has no overrides")
