"""Seconds from the start of the command to its first output line and first iteration."""

from __future__ import annotations

from runner.bench.measurements import BenchResult, Measurement, Target
from runner.bench.timed_runs import first_iteration_s
from runner.bench.workbench import Workbench


def measure(workbench: Workbench) -> BenchResult:
    """Measures a small VLADR run; the initial evaluation precedes the first iteration."""
    measurements = list[Measurement]()
    for variant, traces in workbench.pairs("vladr").items():
        lines = tuple(trace.first_line_s for trace in traces)
        iterations = tuple(first_iteration_s(trace) for trace in traces)
        measurements.append(
            Measurement(f"start.{variant}.first_line", "s", lines, Target("<=", 30))
        )
        measurements.append(Measurement(f"start.{variant}.first_iteration", "s", iterations))
    return BenchResult(tuple(measurements))
