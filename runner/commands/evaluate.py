"""`evaluate`: a finished run's model scored on any benchmark, under that benchmark's own lock."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from runner.analysis.trained_run import TrainedRun

HELP = "score a finished run on another benchmark"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, benchmark, overrides."""
    add_run_arguments(parser)
    parser.add_argument("--benchmark", metavar="NAME", help="default: the run's own")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value",
        help="of benchmark and evaluation, such as evaluation.reranking.enabled=true",
    )  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which trained model is meant, and where it computes."""
    parser.add_argument("run", help="a run's folder, or its name under the storage folder")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What says where runs are, which of their models is meant, and where it computes."""
    parser.add_argument("--storage", default="runs", help="folder of runs (default: runs)")
    parser.add_argument(
        "--after", metavar="DOMAIN", help="the model as it was after this domain (default: last)"
    )
    parser.add_argument(
        "--checkpoint", choices=("last", "validation"), default="last",
        help="the model at the end, or after the epoch chosen on validation people (default: last)",
    )  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help="compute on the first CUDA device")


def run_of(options: argparse.Namespace) -> TrainedRun:
    """The trained model that these arguments name."""
    from runner.analysis.trained_run import load_run

    return load_run(
        options.run,
        options.storage,
        after=options.after,
        checkpoint=options.checkpoint,
        use_gpu=options.gpu,
    )


def index_folder(run: Path, checkpoint: str) -> Path:
    """Where a run's index is kept: one beside the other, each of its own weights."""
    return run / ("index" if checkpoint == "last" else f"index-{checkpoint}")


def main(options: argparse.Namespace) -> int:
    """Scores it and shows the table; returns the exit status."""
    from runner.analysis.cross_evaluation import score, settings_for
    from runner.results.report import scores_table

    run = run_of(options)
    scored = score(run, settings_for(run, options.benchmark, options.overrides))
    console = Console()
    console.print(scores_table(scored.results))
    console.print(f"Weights   {run.checkpoint}", soft_wrap=True)
    console.print(f"Results   {scored.folder / 'results.json'}", soft_wrap=True)
    console.print(f"Protocol  {scored.folder / 'protocol.lock.json'}", soft_wrap=True)
    return 0
