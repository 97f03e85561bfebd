"""Seconds of a sweep's trials, one at a time, and of as many runs of the command line."""

from __future__ import annotations

from pathlib import Path

from runner.bench.measurements import Findings, Measurement, ratio
from runner.bench.timed_runs import time_command
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved

KEY = "learner.losses.affinity.weight"
"""What the trials differ in: it changes no amount of work."""


def measure(bench: Workbench) -> Findings:
    """Small VLADR runs: in turns, each by a command; a sweep; and a sweep that shares nothing.

    A sweep's time is that of its command, from the start of Ray to the outcome's pictures.
    """
    from runner.experiment import read_benchmark

    read_benchmark(bench.config("vladr"))  # draws the people, which nobody is to pay for
    space = bench.folder / "space.yaml"
    space.write_text(f"{KEY}: {{type: float, low: 1.0, high: 30.0}}\n", encoding="utf-8")
    num = bench.sizes.num_trials
    seconds = interleaved(
        {
            "runs": lambda: sum(_run_s(bench, 1.0 + trial) for trial in range(num)),
            "shared": lambda: _sweep_s(bench, space),
            "alone": lambda: _sweep_s(bench, space, "--no-sharing"),
        },
        bench.repeats,
    )
    found = {
        name: Measurement(f"sweep.{num}_trials.{name}", "s", tuple(values))
        for name, values in seconds.items()
    }
    return Findings(
        tuple(found.values()),
        tuple(
            ratio(f"sweep.{above} / {below}", found[above], found[below])
            for above, below in (("shared", "runs"), ("alone", "runs"), ("shared", "alone"))
        ),
    )


def _run_s(bench: Workbench, weight: float) -> float:
    return bench.run("vladr", "cluster.num_workers=0", f"{KEY}={weight}").wall_s


def _sweep_s(bench: Workbench, space: Path, *options: str) -> float:
    arguments = bench.sweep_arguments("vladr", space)
    return time_command("sweep", *arguments, *options)[1]
