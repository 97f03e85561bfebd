"""How long the cells of a table take: from finished ones, or from what the table's file says."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.ablation.cells import Cell, Key
from runner.results.finished_runs import FinishedRun


class Clock:
    """Expects of a cell the mean of what its row took before.

    Else that of the rows with its learner, else `guess_s`, else the mean of all rows: another
    learner may take a small part of the time, or many times as long.

    Args:
        guess_s: seconds of a cell that nothing like it was timed of.
        finished: cells that were timed.
        learners: the learner of each row.
    """

    def __init__(
        self,
        guess_s: float | None,
        finished: Mapping[Key, FinishedRun],
        learners: Mapping[str, str],
    ) -> None:
        self._guess_s = guess_s
        self._learners = learners
        self._taken: dict[str, list[float]] = {}
        for (row, _), run in finished.items():
            self.add(row, seconds_of(run.results))

    def add(self, row: str, seconds: float) -> None:
        """Takes a cell that was timed."""
        self._taken.setdefault(row, []).append(seconds)

    def expected_s(self, row: str) -> float | None:
        """Seconds of a cell of the row; None if nothing is known."""
        learner = self._learners[row]
        alike = [each for each in self._taken if self._learners[each] == learner]
        known = self._taken.get(row) or self._all_of(alike)
        if not known:
            if self._guess_s is not None:
                return self._guess_s
            known = self._all_of(self._taken)
        return math.fsum(known) / len(known) if known else None

    def _all_of(self, rows: Iterable[str]) -> list[float]:
        return [seconds for row in rows for seconds in self._taken[row]]

    def left_s(self, left: Sequence[tuple[Cell, float]], side_by_side: int) -> float | None:
        """Seconds until the last cell ends; None if nothing is known.

        Args:
            left: cells that have not ended, in their order, and for how long each has been run.
            side_by_side: cells that run at once.
        """
        durations: list[float] = []
        for cell, busy_s in left:
            expected = self.expected_s(cell.row)
            if expected is None:
                return None
            durations.append(max(0.0, expected - busy_s))
        return makespan(durations, side_by_side)


def seconds_of(results: Mapping[str, Any]) -> float:
    """What a finished run took, earlier starts included as far as they left checkpoints."""
    timings = results["timings"]
    purposes = ("waiting_s", "probing_s", "training_s", "evaluation_s", "checkpoints_s")
    return max(timings["wall_s"], math.fsum(timings.get(name, 0.0) for name in purposes))


def makespan(durations: Sequence[float], side_by_side: int) -> float:
    """Seconds until all are done, each begun in its turn as soon as a place is free."""
    ends = [0.0] * side_by_side
    for seconds in durations:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
