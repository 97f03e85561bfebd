"""Seconds from the command to its first line on the screen, and to its first iteration."""

from __future__ import annotations

from runner.bench.measurements import Aim, Findings, Measurement
from runner.bench.timed_runs import first_iteration_s
from runner.bench.workbench import Workbench


def measure(bench: Workbench) -> Findings:
    """A small VLADR run; the evaluation before training lies before the first iteration."""
    found = list[Measurement]()
    for variant, traces in bench.pairs("vladr").items():
        lines = tuple(trace.first_line_s for trace in traces)
        iterations = tuple(first_iteration_s(trace) for trace in traces)
        found.append(Measurement(f"start.{variant}.first_line", "s", lines, Aim("<=", 30)))
        found.append(Measurement(f"start.{variant}.first_iteration", "s", iterations))
    return Findings(tuple(found))
