"""Duration of a sweep compared with the same number of single runs, in seconds."""

from __future__ import annotations

from pathlib import Path

from runner.bench.measurements import BenchResult, Measurement, ratio
from runner.bench.timed_runs import time_command
from runner.bench.workbench import Workbench
from runner.profiling.interleave import interleaved

KEY = "learner.losses.prototype_relation.weight"
"""The searched parameter; it does not affect the amount of work."""


def measure(workbench: Workbench) -> BenchResult:
    """Measures single VLADR runs, a sweep, and a sweep without shared images, in turn.

    The time of a sweep is that of its command, from the start of Ray to the final plots.
    """
    from runner.experiment import read_benchmark

    read_benchmark(workbench.config("vladr"))  # generates the data before the measurement
    space = workbench.folder / "space.yaml"
    space.write_text(f"{KEY}: {{type: float, low: 1.0, high: 30.0}}\n", encoding="utf-8")
    num_trials = workbench.sizes.num_trials
    seconds = interleaved(
        {
            "runs": lambda: sum(_run_s(workbench, 1.0 + trial) for trial in range(num_trials)),
            "shared": lambda: _sweep_s(workbench, space),
            "alone": lambda: _sweep_s(workbench, space, "--no-sharing"),
        },
        workbench.repeats,
    )
    measurements = {
        name: Measurement(f"sweep.{num_trials}_trials.{name}", "s", tuple(values))
        for name, values in seconds.items()
    }
    return BenchResult(
        tuple(measurements.values()),
        tuple(
            ratio(f"sweep.{above} / {below}", measurements[above], measurements[below])
            for above, below in (("shared", "runs"), ("alone", "runs"), ("shared", "alone"))
        ),
    )


def _run_s(workbench: Workbench, weight: float) -> float:
    return workbench.run("vladr", "cluster.num_workers=0", f"{KEY}={weight}").wall_s


def _sweep_s(workbench: Workbench, space: Path, *options: str) -> float:
    arguments = workbench.sweep_arguments("vladr", space)
    return time_command("sweep", *arguments, *options)[1]
