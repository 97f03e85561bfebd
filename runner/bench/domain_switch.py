"""Seconds between two domains: waiting for images, and starting the next domain."""

from __future__ import annotations

from runner.bench.measurements import BenchResult, Measurement, Target
from runner.bench.timed_runs import gaps
from runner.bench.workbench import Workbench


def measure(workbench: Workbench) -> BenchResult:
    """Measures from the final checkpoint of a VLADR domain to the first stage of the next."""
    measurements = list[Measurement]()
    for variant, traces in workbench.pairs("vladr").items():
        domain_gaps = [gap for trace in traces for gap in gaps(trace.events)]
        waiting = tuple(gap.waiting for gap in domain_gaps)
        begin_domain = tuple(gap.begin_domain for gap in domain_gaps)
        name = f"between.{variant}"
        measurements.append(Measurement(f"{name}.waiting", "s", waiting, Target("<=", 1.0)))
        measurements.append(Measurement(f"{name}.begin_domain", "s", begin_domain))
    return BenchResult(tuple(measurements))
