"""`run`: an experiment from images to its result matrix, or the rest of one."""

from __future__ import annotations

import argparse

from rich.console import Console

HELP = "run an experiment, or go on with it (the default)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Preset, overrides, --fresh."""
    add_config_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, dropping earlier results")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which configuration is meant."""
    parser.add_argument(
        "--preset", default="demo", help="a preset's name or a YAML file (default: demo)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override, such as seed=1"
    )


def main(options: argparse.Namespace) -> int:
    """Runs it and shows the results; returns the exit status."""
    from runner.config.run_config import load_config
    from runner.experiment import run_experiment, tracking_uri
    from runner.results.report import results_table
    from runner.tracking.console import ProgressView

    console = Console()
    config = load_config(options.preset, options.overrides)
    result = run_experiment(config, fresh=options.fresh, view=ProgressView(console))
    console.print(results_table(result.results))
    if result.was_finished:
        console.print("This run was finished before; --fresh runs it again.")
    console.print(f"Results   {result.folder / 'results.json'}", soft_wrap=True)
    console.print(f"Pictures  {result.folder / 'matrix.png'}, curves.png", soft_wrap=True)
    pending = result.tracking.pending if result.tracking else 0
    if config.tracking.uri is None:
        return 0
    if config.cluster.num_workers == 0 or pending:
        command = f"python runner/lifelong.py sync {result.folder}"
        console.print(f"Tracking  {command} sends this run to MLflow", soft_wrap=True)
    else:
        command = f"mlflow ui --backend-store-uri {tracking_uri(config)}"
        console.print(f"Tracking  {command}", soft_wrap=True)
    return 0
