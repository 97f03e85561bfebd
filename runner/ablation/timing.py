"""Estimates of the time that cells take, from finished cells or from the table's file."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.ablation.cells import Cell, Key
from runner.results.finished_runs import FinishedRun


class TimeEstimator:
    """Estimates the duration of a cell as the mean of finished cells of the same row.

    Without such cells it uses the rows with the same learner, then `guess_s`, then the mean of all
    rows. Durations of other learners come last, because they may differ by a large factor.

    Args:
        guess_s: seconds of a cell without finished cells of the same learner.
        finished: finished cells.
        learners: learner of each row.
    """

    def __init__(
        self,
        guess_s: float | None,
        finished: Mapping[Key, FinishedRun],
        learners: Mapping[str, str],
    ) -> None:
        self._guess_s = guess_s
        self._learners = learners
        self._durations_s: dict[str, list[float]] = {}
        for (row, _), run in finished.items():
            self.add(row, seconds_of(run.results))

    def add(self, row: str, seconds: float) -> None:
        """Adds the duration of a finished cell."""
        self._durations_s.setdefault(row, []).append(seconds)

    def expected_s(self, row: str) -> float | None:
        """Expected seconds of a cell of the row; None if unknown."""
        learner = self._learners[row]
        similar = [each for each in self._durations_s if self._learners[each] == learner]
        known = self._durations_s.get(row) or self._all_of(similar)
        if not known:
            if self._guess_s is not None:
                return self._guess_s
            known = self._all_of(self._durations_s)
        return math.fsum(known) / len(known) if known else None

    def _all_of(self, rows: Iterable[str]) -> list[float]:
        return [seconds for row in rows for seconds in self._durations_s[row]]

    def left_s(self, remaining: Sequence[tuple[Cell, float]], num_jobs: int) -> float | None:
        """Expected seconds until the last cell ends; None if unknown.

        Args:
            remaining: cells that have not ended, in order, and the seconds that each has run.
            num_jobs: number of cells that run at the same time.
        """
        durations: list[float] = []
        for cell, elapsed_s in remaining:
            expected = self.expected_s(cell.row)
            if expected is None:
                return None
            durations.append(max(0.0, expected - elapsed_s))
        return makespan(durations, num_jobs)


def seconds_of(results: Mapping[str, Any]) -> float:
    """Duration of a finished run in seconds, including earlier starts that left a checkpoint."""
    timings = results["timings"]
    purposes = ("waiting_s", "probing_s", "training_s", "evaluation_s", "checkpoints_s")
    return max(timings["wall_s"], math.fsum(timings.get(name, 0.0) for name in purposes))


def makespan(durations: Sequence[float], num_jobs: int) -> float:
    """Seconds until all jobs end, if each starts in order as soon as one of `num_jobs` is free."""
    ends = [0.0] * num_jobs
    for seconds in durations:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
