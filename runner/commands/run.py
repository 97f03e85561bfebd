"""Run an experiment: read the data sets, train domain by domain, evaluate.

A run that was interrupted resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import shlex

from runner import program_name
from runner.commands._arguments import (
    add_config_arguments,
    add_output_arguments,
    add_values_files,
    all_overrides,
)
from runner.commands._output import Output

HELP = "run or resume an experiment (default command)"
EXAMPLE = "--preset demo-vladr seed=1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run`."""
    add_config_arguments(parser)
    add_values_files(parser)
    parser.add_argument(
        "--fresh", action="store_true", help="start again and delete the earlier results"
    )
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Runs the experiment and prints its results."""
    from runner.config.redaction import masked_uri
    from runner.config.run_config import load_config
    from runner.experiment import run_experiment, tracking_uri
    from runner.results.report import results_table
    from runner.tracking.console import ProgressView

    config = load_config(options.preset, all_overrides(options))
    result = run_experiment(config, fresh=options.fresh, view=ProgressView(output.progress))
    output.write_json(
        {
            "folder": str(result.folder),
            "was_finished": result.was_finished,
            "results": result.results,
        }
    )
    output.results.print(results_table(result.results))
    if result.was_finished:
        output.note("This run was already finished; --fresh runs it again.")
    output.note(f"Results   {result.folder / 'results.json'}")
    output.note(f"Figures   {result.folder / 'matrix.png'}, curves.png")
    if (report := result.folder / "report.html").is_file():
        output.note(f"Report    {report}")
    pending = result.tracking.pending if result.tracking else 0
    if config.tracking.uri is None:
        return 0
    if config.cluster.num_workers == 0 or pending:
        folder = shlex.quote(str(result.folder))
        output.note(f"Tracking  {program_name()} sync {folder} sends this run to MLflow")
    else:
        uri = shlex.quote(masked_uri(tracking_uri(config) or ""))
        output.note(f"Tracking  mlflow ui --backend-store-uri {uri}")
    return 0
