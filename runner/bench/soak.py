"""Repeated runs under CPU load, in one process and on Ray, whose numbers must all be equal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context

from runner.bench.measurements import BenchResult, Measurement, Target
from runner.bench.outcomes import Iterations, Outcome, deviations, outcome_of
from runner.bench.workbench import Workbench

NUM_BURNERS = 2


def measure(workbench: Workbench) -> BenchResult:
    """Runs VLADR `workbench.repeats` times, in one process and with a Ray worker in turn."""
    outcomes = list[Outcome]()
    with _load():
        for number in range(workbench.repeats):
            trace = workbench.run("vladr", f"cluster.num_workers={number % 2}")
            outcomes.append(outcome_of(trace.results, Iterations.of(trace.events)))
            for problem in deviations(outcomes[0], outcomes[-1]):
                print(f"run {number + 1}: {problem}", file=sys.stderr)
    distinct = Counter(
        (each.digest, tuple(sorted(each.iterations.values.items()))) for each in outcomes
    )
    return BenchResult(
        (
            Measurement("soak.runs", "", (float(len(outcomes)),)),
            Measurement("soak.distinct_results", "", (float(len(distinct)),), Target("<=", 1)),
        )
    )


@contextmanager
def _load() -> Iterator[None]:
    """Keeps NUM_BURNERS processes busy within the block."""
    burners = [get_context("spawn").Process(target=_burn, daemon=True) for _ in range(NUM_BURNERS)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def _burn() -> None:
    while True:
        sum(range(100_000))
