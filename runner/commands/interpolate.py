"""Evaluate interpolations of the weights before and after each domain.

Needs a finished run and no training.
"""

from __future__ import annotations

import argparse

from runner.commands._arguments import (
    add_domains,
    add_gpu,
    add_output_arguments,
    add_overrides,
    add_run,
    add_runs_folder,
    split_overrides,
)
from runner.commands._output import Output

HELP = "evaluate interpolations of old and new weights of a finished run"
EXAMPLE = "RUN --alphas 0.25,0.5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `interpolate`."""
    add_run(parser)
    add_runs_folder(parser)
    parser.add_argument(
        "--alphas", default="0.1:0.9:0.1", metavar="START:STOP:STEP",
        help="weights of the new model, or a list such as 0.25,0.5 (default: 0.1:0.9:0.1); "
        "0 and 1 are always included",
    )  # fmt: skip
    add_domains(parser, "steps that learned these domains (default: all from the second on)")
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test",
        help="scores in the table and the figure; both are evaluated (default: test)",
    )  # fmt: skip
    add_gpu(parser)
    add_overrides(parser, "benchmark and evaluation settings, such as benchmark.root=data")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Evaluates the missing interpolations and prints all of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from runner.analysis.interpolation.evaluate import (
        InterpolationStep,
        interpolate_run,
        parse_alphas,
    )
    from runner.analysis.interpolation.view import interpolation_table, remarks, write_figure

    domains, overrides = split_overrides([*options.domain, *options.overrides])
    description = TextColumn("{task.description}", markup=False)
    console = output.progress
    with Progress(
        description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("reading", total=None)

        def report(step: InterpolationStep, alpha: float, num_done: int, num_all: int) -> None:
            state = f"step {step.number} + {step.domain}, alpha = {alpha:g}"
            progress.update(task, description=state, completed=num_done, total=num_all)

        interpolated = interpolate_run(
            options.run,
            options.runs_folder,
            parse_alphas(options.alphas),
            domains=domains,
            overrides=overrides,
            use_gpu=options.gpu,
            report=report,
        )
    figure = write_figure(interpolated.results, options.split, interpolated.folder)
    output.write_json({"folder": str(interpolated.folder), "results": interpolated.results})
    output.results.print(interpolation_table(interpolated.results, options.split))
    for sentence in remarks(interpolated.results):
        output.results.print(sentence)
    output.note(f"Results   {interpolated.folder / 'results.json'}")
    output.note(f"Figure    {figure}")
    return 0
