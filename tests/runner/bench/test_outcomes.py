"""Comparison of runs that were interrupted or repeated with an unbroken one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runner.bench.outcomes import (
    RESULTS,
    Iterations,
    Outcome,
    deviations,
    outcome_of,
    tracked_steps,
)


def iteration(number: int, loss: float) -> dict[str, Any]:
    return {
        "event": "iteration",
        "time": float(number),
        "iteration": number,
        "loss": loss,
        "terms": {"identity": loss},
        "weights": {},
        "lr": 0.1,
        "images_per_s": 3.0 * number,
    }


def outcome(*losses: float, seen: float = 50.0) -> Outcome:
    results: dict[str, Any] = dict.fromkeys(RESULTS) | {"summary": {"seen_mAP": seen}}
    events = [iteration(number, loss) for number, loss in enumerate(losses)]
    return outcome_of(results | {"num_starts": len(losses)}, Iterations.of(events))


def test_equal_runs_have_no_deviation() -> None:
    assert deviations(outcome(3, 2, 1), outcome(3, 2, 1)) == []


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (outcome(3, 2, 1, seen=51), "results.json"),
        (outcome(3, 2), "[2] are missing"),
        (outcome(3, 2.5, 1), "[1] have other numbers"),
    ],
)
def test_every_difference_is_named(other: Outcome, part: str) -> None:
    (problem,) = deviations(outcome(3, 2, 1), other)
    assert part in problem


def test_a_repeated_iteration_must_have_the_same_numbers() -> None:
    same = Iterations.of([iteration(0, 3), iteration(0, 3) | {"images_per_s": 1.0}])
    assert same == Iterations({0: same.values[0]})
    assert Iterations.of([iteration(0, 3), iteration(0, 2)]).unequal == (0,)


def test_metrics_in_mlflow_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE metrics (run_uuid TEXT, key TEXT, step INTEGER)")
        database.executemany("INSERT INTO metrics VALUES ('r', 'icar/loss', ?)", [(0,), (1,)])
    assert tracked_steps(file, outcome(3, 2)) == []
    assert "2 losses, the event log 3" in tracked_steps(file, outcome(3, 2, 1))[0]
    with sqlite3.connect(file) as database:
        database.execute("INSERT INTO metrics VALUES ('r', 'icar/loss', 1)")
    assert "1 metrics were sent twice" in tracked_steps(file, outcome(3, 2))[0]
