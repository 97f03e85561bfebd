"""Outcome of a run, for comparison with another run of the same configuration."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.tracking.event_log import Event

RESULTS = (
    *("domains", "scores", "validation", "summary", "validation_summary", "num_iterations"),
    *("memory_version", "memory_versions"),
)
"""Entries of results.json that are functions of the configuration."""


@dataclass(frozen=True)
class Iterations:
    """Numbers of the logged iterations, by iteration; repeated ones must be equal.

    Attributes:
        values: JSON of loss, terms, weights and learning rate, by number of the iteration.
        unequal: iterations that were repeated with other numbers.
    """

    values: Mapping[int, str]
    unequal: Sequence[int] = ()

    @staticmethod
    def of(events: Iterable[Event]) -> Iterations:
        """Reads the `iteration` events of a log."""
        values, unequal = dict[int, str](), list[int]()
        for event in events:
            if event["event"] == "iteration":
                numbers = {name: event[name] for name in ("loss", "terms", "weights", "lr")}
                text = json.dumps(numbers, sort_keys=True)
                if values.setdefault(event["iteration"], text) != text:
                    unequal.append(event["iteration"])
        return Iterations(values, tuple(unequal))


@dataclass(frozen=True)
class Outcome:
    """Results of a run.

    Attributes:
        digest: SHA-256 of the entries RESULTS of results.json.
        iterations: logged iterations.
    """

    digest: str
    iterations: Iterations


def outcome_of(results: Mapping[str, Any], iterations: Iterations) -> Outcome:
    """Builds the outcome from results.json and the logged iterations."""
    text = json.dumps({name: results[name] for name in RESULTS}, sort_keys=True)
    return Outcome(hashlib.sha256(text.encode()).hexdigest(), iterations)


def deviations(expected: Outcome, outcome: Outcome) -> list[str]:
    """Describes every difference between two runs of the same configuration."""
    problems = list[str]()
    if outcome.digest != expected.digest:
        problems.append("results.json differs")
    theirs, ours = expected.iterations.values, outcome.iterations.values
    if lost := sorted(theirs.keys() - ours.keys()):
        problems.append(f"iterations {lost[:5]} are missing")
    if other := [
        number for number in theirs.keys() & ours.keys() if theirs[number] != ours[number]
    ]:
        problems.append(f"iterations {sorted(other)[:5]} have other numbers")
    if outcome.iterations.unequal:
        problems.append(f"iterations {outcome.iterations.unequal[:5]} were repeated differently")
    return problems


def tracked_steps(database: Path, outcome: Outcome) -> list[str]:
    """Describes metrics in a SQLite database of MLflow that were sent twice or not at all."""
    with closing(sqlite3.connect(database)) as connection:
        (doubled,) = connection.execute(
            "SELECT COUNT(*) FROM (SELECT 1 FROM metrics GROUP BY run_uuid, key, step "
            "HAVING COUNT(*) > 1)"
        ).fetchone()
        (num_losses,) = connection.execute(
            "SELECT COUNT(DISTINCT step) FROM metrics WHERE key LIKE '%/loss'"
        ).fetchone()
    problems = [f"{doubled} metrics were sent twice to MLflow"] if doubled else []
    if num_losses != len(outcome.iterations.values):
        problems.append(
            f"MLflow has {num_losses} losses, the event log {len(outcome.iterations.values)}"
        )
    return problems
