"""Search hyperparameters: Optuna proposes trials and Ray Tune runs them."""

from __future__ import annotations

import argparse

from runner.commands._arguments import add_output_arguments, add_overrides, add_renamed
from runner.commands._output import Output

HELP = "run or resume a hyperparameter search"
EXAMPLE = "smoke --trials 4 --name first-sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `sweep`."""
    parser.add_argument(
        "space", metavar="SPACE", help="name of a search space in search_spaces/, or a YAML file"
    )
    parser.add_argument(
        "--preset", help="preset of all trials (default: that of the space, or demo-sweep)"
    )
    parser.add_argument("--name", help="name of the sweep's folder (default: <space>-<preset>)")
    parser.add_argument("--sweeps", default="sweeps", metavar="DIR",
                        help="folder of all sweeps (default: sweeps)")  # fmt: skip
    add_renamed(parser, "--root", "--sweeps")
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials (default: 12)")
    parser.add_argument(
        "--concurrent", type=int, metavar="N",
        help="trials at the same time (default: as many as the resources allow)",
    )  # fmt: skip
    parser.add_argument("--sampler", help="tpe, random, gp or nsga2 (default: tpe)")
    parser.add_argument(
        "--scheduler", help="asha, median or none (default: asha; none for several objectives)"
    )
    parser.add_argument(
        "--grace", type=int, metavar="N",
        help="domains that each trial learns before it may be stopped, or, with "
        "evaluation.every_epochs, candidate epochs (default: 2, because forgetting is undefined "
        "after one domain)",
    )  # fmt: skip
    parser.add_argument(
        "--objective", metavar="NAMES",
        help="scores on validation identities, such as seen_mAP,forgetting_mAP "
        "(default: seen_mAP)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", help="seeds that each trial averages over, such as 0,1,2 (default: 0)"
    )
    parser.add_argument(
        "--sampler-seed", type=int, metavar="N", help="seed of the sampler (default: 0)"
    )
    parser.add_argument(
        "--study", metavar="URL",
        help="database of the Optuna study (default: SQLite in the sweep's folder)",
    )  # fmt: skip
    add_renamed(parser, "--storage", "--study")
    parser.add_argument(
        "--no-default", action="store_true",
        help="do not start with a trial of the preset's values",
    )  # fmt: skip
    parser.add_argument(
        "--no-sharing", action="store_true", help="each trial decodes its own images"
    )
    parser.add_argument("--resume", action="store_true", help="resume an existing sweep")
    add_overrides(parser, "overrides of all trials, such as learner.icar.epochs=6")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Runs the sweep; returns 0 if at least one trial finished, otherwise 1."""
    from runner.sweep.plan import make_plan

    plan = make_plan(options)

    import json

    from rich.text import Text

    from runner.sweep.run import run_sweep
    from runner.sweep.table import to_json
    from runner.sweep.view import summary

    try:
        outcome = run_sweep(plan, output.progress)
    except KeyboardInterrupt:
        output.progress.print(
            "Run the same command again to resume the trials from their checkpoints",
            soft_wrap=True,
        )
        raise
    if options.quiet:  # run_sweep printed the summary to a disabled console
        for part in summary(outcome):
            output.results.print(part, soft_wrap=isinstance(part, Text))
    output.write_json({"folder": str(plan.folder), **json.loads(to_json(outcome))})
    return 0 if any(record.state == "finished" for record in outcome.records) else 1
