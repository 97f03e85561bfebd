"""`sweep`: a search for a configuration, by trials that Ray Tune runs and Optuna proposes."""

from __future__ import annotations

import argparse

from rich.console import Console

HELP = "search a space of settings by trials, or go on with a search"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Space, budget, who proposes and who stops, overrides."""
    parser.add_argument("space", metavar="SPACE", help="a name in search_spaces/, or a YAML file")
    parser.add_argument(
        "--preset", help="every trial begins with it (default: the space's own, or demo-sweep)"
    )
    parser.add_argument("--name", help="folder of the sweep (default: <space>-<preset>)")
    parser.add_argument("--trials", type=int, metavar="N", help="in all (default: 12)")
    parser.add_argument(
        "--concurrent", type=int, metavar="N", help="trials side by side (default: what fits)"
    )
    parser.add_argument("--sampler", help="tpe, random, gp or nsga2 (default: tpe)")
    parser.add_argument(
        "--scheduler", help="asha, median or none (default: asha; none with several objectives)"
    )
    parser.add_argument(
        "--grace", type=int, metavar="N",
        help="domains that every trial learns before it may be stopped (default: 2, as after one "
        "nothing can be forgotten)",
    )  # fmt: skip
    parser.add_argument(
        "--objective", metavar="NAMES",
        help="on validation identities, such as seen_mAP,forgetting_mAP (default: seen_mAP)",
    )  # fmt: skip
    parser.add_argument("--seeds", help="whose runs a trial averages (default: 0)")
    parser.add_argument(
        "--sampler-seed", type=int, metavar="N", help="of the proposals (default: 0)"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="of the Optuna study (default: sqlite in the folder)"
    )
    parser.add_argument("--root", default="sweeps", help="folder of all sweeps (default: sweeps)")
    parser.add_argument(
        "--no-default", action="store_true",
        help="do not begin with the preset's own values",
    )  # fmt: skip
    parser.add_argument(
        "--no-sharing", action="store_true", help="every trial decodes its images itself"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a sweep that was begun")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of every trial, such as learner.lr=1e-4"
    )


def main(options: argparse.Namespace) -> int:
    """Runs the sweep; returns 0 if a trial has finished, 1 if none has."""
    from runner.sweep.plan import make_plan

    console = Console()
    plan = make_plan(options)

    from runner.sweep.run import run_sweep

    try:
        outcome = run_sweep(plan, console)
    except KeyboardInterrupt:
        console.print(
            "The trials that ran go on from their checkpoints when the same command comes again",
            soft_wrap=True,
        )
        raise
    return 0 if any(record.state == "finished" for record in outcome.records) else 1
