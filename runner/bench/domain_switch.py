"""Seconds between two domains: waiting for the next one's images, and beginning it."""

from __future__ import annotations

from runner.bench.measurements import Aim, Findings, Measurement
from runner.bench.timed_runs import gaps
from runner.bench.workbench import Workbench


def measure(bench: Workbench) -> Findings:
    """From the checkpoint that ends a VLADR domain to the first iteration of the next."""
    found = list[Measurement]()
    for variant, traces in bench.pairs("vladr").items():
        lost = [gap for trace in traces for gap in gaps(trace.events)]
        waiting = tuple(gap.waiting for gap in lost)
        beginning = tuple(gap.begin_domain for gap in lost)
        name = f"between.{variant}"
        found.append(Measurement(f"{name}.waiting", "s", waiting, Aim("<=", 1.0)))
        found.append(Measurement(f"{name}.begin_domain", "s", beginning))
    return Findings(tuple(found))
