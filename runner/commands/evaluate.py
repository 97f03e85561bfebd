"""Evaluate the model of a finished run on a benchmark.

The scores have the protocol lock of that benchmark.
"""

from __future__ import annotations

import argparse

from runner.commands._arguments import (
    add_output_arguments,
    add_overrides,
    add_run_arguments,
    load_trained_run,
)
from runner.commands._output import Output

HELP = "evaluate a finished run on another benchmark"
EXAMPLE = "RUN --benchmark market1501"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `evaluate`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--benchmark", metavar="NAME", help="benchmark to evaluate on (default: that of the run)"
    )
    add_overrides(
        parser, "benchmark and evaluation settings, such as evaluation.reranking.enabled=true"
    )
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Evaluates the model and prints the scores."""
    from runner.analysis.cross_evaluation import score, settings_for
    from runner.results.report import scores_table

    run = load_trained_run(options)
    scored = score(run, settings_for(run, options.benchmark, options.overrides))
    output.write_json({"folder": str(scored.folder), "results": scored.results})
    output.results.print(scores_table(scored.results))
    output.note(f"Weights   {run.checkpoint}")
    output.note(f"Results   {scored.folder / 'results.json'}")
    output.note(f"Protocol  {scored.folder / 'protocol.lock.json'}")
    return 0
