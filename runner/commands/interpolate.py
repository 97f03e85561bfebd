"""`interpolate`: mixtures of a finished run's weights before and after each domain, evaluated."""

from __future__ import annotations

import argparse

from rich.console import Console

HELP = "evaluate mixtures of old and new weights of a finished run, without training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, shares, steps, whose scores are shown, overrides."""
    parser.add_argument("run", help="a run's folder, or its name under the storage folder")
    parser.add_argument("--storage", default="runs", help="folder of runs (default: runs)")
    parser.add_argument(
        "--alphas", default="0.1:0.9:0.1", metavar="START:STOP:STEP",
        help="shares of the new weights, or a list such as 0.25,0.5 (default: 0.1:0.9:0.1); "
        "0 and 1 are always among them",
    )  # fmt: skip
    parser.add_argument(
        "--domain", action="extend", nargs="+", default=[], metavar="NAME",
        help="only the steps that learned these domains (default: all from the second on)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test",
        help="whose scores table and picture show; both are evaluated (default: test)",
    )  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help="compute on the first CUDA device")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value",
        help="of benchmark and evaluation, such as benchmark.root=data",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Evaluates what is missing and shows all; returns the exit status."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from runner.analysis.interpolation.evaluate import (
        InterpolationStep,
        interpolate_run,
        parse_alphas,
    )
    from runner.analysis.interpolation.view import interpolation_table, remarks, write_figure

    console = Console()
    # --domain takes as many words as there are: overrides behind it are not domains.
    domains = [each for each in options.domain if "=" not in each]
    overrides = [each for each in options.domain if "=" in each] + options.overrides
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("reading", total=None)

        def report(step: InterpolationStep, alpha: float, num_done: int, num_all: int) -> None:
            doing = f"step {step.number} + {step.domain}, a = {alpha:g}"
            progress.update(task, description=doing, completed=num_done, total=num_all)

        mixed = interpolate_run(
            options.run,
            options.storage,
            parse_alphas(options.alphas),
            domains=domains,
            overrides=overrides,
            use_gpu=options.gpu,
            report=report,
        )
    console.print(interpolation_table(mixed.results, options.split))
    for sentence in remarks(mixed.results):
        console.print(sentence, highlight=False)
    picture = write_figure(mixed.results, options.split, mixed.folder)
    console.print(f"Results   {mixed.folder / 'results.json'}", soft_wrap=True)
    console.print(f"Picture   {picture}", soft_wrap=True)
    return 0
