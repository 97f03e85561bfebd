"""How long the cells of a table take: from finished ones, or from what the table's file says."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.ablation.cells import Cell, Key
from runner.finished import FinishedRun


class Clock:
    """Expects of a cell what its row took before, else the mean of all rows, else `guess_s`."""

    def __init__(self, guess_s: float | None, finished: Mapping[Key, FinishedRun]) -> None:
        self._guess_s = guess_s
        self._taken: dict[str, list[float]] = {}
        for (row, _), run in finished.items():
            self.add(row, seconds_of(run.results))

    def add(self, row: str, seconds: float) -> None:
        """Takes a cell that was timed."""
        self._taken.setdefault(row, []).append(seconds)

    def expected_s(self, row: str) -> float | None:
        """Seconds of a cell of the row; None if nothing is known."""
        known = self._taken.get(row) or [
            seconds for taken in self._taken.values() for seconds in taken
        ]
        return math.fsum(known) / len(known) if known else self._guess_s

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


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
