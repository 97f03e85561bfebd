"""The result matrix of a lifelong run, and the averages the field reports from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

METRICS = ("mAP", "R1", "R5", "R10", "mINP")
"""What is recorded of every domain after every step, in percent."""


class ResultMatrix:
    """R[i, j]: the score on domain j after step i, in percent, for each metric.

    Step 0 is before any training; step i is after the i-th of the T seen domains was learned, so
    there are T + 1 rows. Columns are the seen domains in lifelong order, then the unseen ones. A
    value that is derived from a cell that was never recorded, or that does not exist (forgetting
    with one domain), is None.
    """

    def __init__(self, seen: tuple[str, ...], unseen: tuple[str, ...] = ()) -> None:
        """Makes an empty matrix.

        Raises:
            ValueError: no seen domain, or a domain is named twice.
        """
        domains = seen + unseen
        if not seen:
            raise ValueError("a result matrix needs at least one seen domain")
        if len(set(domains)) < len(domains):
            raise ValueError(f"expected every domain once, got {', '.join(domains)}")
        self.seen = seen
        self.unseen = unseen
        self._cells: dict[tuple[str, int, str], float] = {}

    @property
    def num_steps(self) -> int:
        """T: the number of seen domains, and the last step."""
        return len(self.seen)

    def record(self, step: int, domain: str, scores: Mapping[str, float]) -> None:
        """Sets the scores (percent, by metric) on a domain after a step; earlier ones are replaced.

        NaN (an evaluation without a valid query) leaves the cell missing.

        Raises:
            ValueError: unknown domain or metric, step outside 0..T, score outside 0..100.
        """
        self._check_step(step)
        if domain not in self.seen + self.unseen:
            raise ValueError(
                f"unknown domain {domain!r}; this matrix has {', '.join(self.seen + self.unseen)}"
            )
        for metric, score in scores.items():
            _check_metric(metric)
            if not (math.isnan(score) or 0 <= score <= 100):
                raise ValueError(
                    f"{metric} on {domain} after step {step}: "
                    f"expected percent in 0..100, got {score}"
                )
        for metric, score in scores.items():
            self._cells.pop((metric, step, domain), None)
            if not math.isnan(score):
                self._cells[metric, step, domain] = float(score)

    def score(self, metric: str, step: int, domain: str) -> float | None:
        """R[step, domain], or None if it is missing."""
        return self._cells.get((metric, step, domain))

    def seen_average(self, metric: str, step: int | None = None) -> float | None:
        """Mean over the domains learned by `step` (default: T) of their scores after it.

        The literature's "anti-forgetting" or "seen average". None at step 0: nothing is learned.
        """
        step = self._resolve_step(metric, step)
        return _mean(self.score(metric, step, domain) for domain in self.seen[:step])

    def unseen_average(self, metric: str, step: int | None = None) -> float | None:
        """Mean over the unseen domains after `step` (default: T), "generalisation"."""
        step = self._resolve_step(metric, step)
        return _mean(self.score(metric, step, domain) for domain in self.unseen)

    def forgetting(self, metric: str) -> float | None:
        """Mean over j < T of max over 1 <= i < T of R[i, j], minus R[T, j].

        Row 0 is left out of the maximum: what was never learned cannot be forgotten. Negative if
        old domains went on to improve.
        """
        _check_metric(metric)
        steps = range(1, self.num_steps)
        return _mean(
            _difference(
                _maximum(self.score(metric, step, domain) for step in steps),
                self.score(metric, self.num_steps, domain),
            )
            for domain in self.seen[:-1]
        )

    def backward_transfer(self, metric: str) -> float | None:
        """Mean over j < T of R[T, j] - R[j, j]: the change since each domain was learned."""
        _check_metric(metric)
        return _mean(
            _difference(
                self.score(metric, self.num_steps, domain), self.score(metric, step, domain)
            )
            for step, domain in enumerate(self.seen[:-1], start=1)
        )

    def forward_transfer(self, metric: str) -> float | None:
        """Mean over j > 1 of R[j-1, j] - R[0, j]: the gain on a domain before it is learned."""
        _check_metric(metric)
        return _mean(
            _difference(self.score(metric, step, domain), self.score(metric, 0, domain))
            for step, domain in enumerate(self.seen[1:], start=1)
        )

    def average_incremental(self, metric: str) -> float | None:
        """Mean over steps 1..T of the seen average after each."""
        _check_metric(metric)
        return _mean(self.seen_average(metric, step) for step in range(1, self.num_steps + 1))

    def summary(self) -> dict[str, float | None]:
        """The numbers a results file and a sweep look at, in percent or percentage points."""
        return {
            "seen_mAP": self.seen_average("mAP"),
            "seen_R1": self.seen_average("R1"),
            "unseen_mAP": self.unseen_average("mAP"),
            "unseen_R1": self.unseen_average("R1"),
            "forgetting_mAP": self.forgetting("mAP"),
            "backward_transfer_mAP": self.backward_transfer("mAP"),
            "forward_transfer_mAP": self.forward_transfer("mAP"),
            "average_incremental_mAP": self.average_incremental("mAP"),
        }

    def without(self, unseen: Collection[str]) -> ResultMatrix:
        """The matrix without these unseen domains, for averages over the others."""
        kept = tuple(domain for domain in self.unseen if domain not in unseen)
        matrix = ResultMatrix(self.seen, kept)
        matrix._cells = {
            key: score for key, score in self._cells.items() if key[2] in self.seen + kept
        }
        return matrix

    def to_json(self) -> dict[str, list[list[float | None]]]:
        """For each metric the rows of steps 0..T, columns seen then unseen; missing is None."""
        return {
            metric: [
                [self.score(metric, step, domain) for domain in self.seen + self.unseen]
                for step in range(self.num_steps + 1)
            ]
            for metric in METRICS
        }

    @classmethod
    def from_json(
        cls,
        scores: Mapping[str, Sequence[Sequence[float | None]]],
        seen: tuple[str, ...],
        unseen: tuple[str, ...] = (),
    ) -> ResultMatrix:
        """The matrix that `to_json` wrote; a metric it lacks is missing.

        Raises:
            ValueError: the table's size does not fit the domains, or a cell is not valid.
        """
        matrix = cls(seen, unseen)
        domains = seen + unseen
        for metric, rows in scores.items():
            if len(rows) != len(seen) + 1 or any(len(row) != len(domains) for row in rows):
                raise ValueError(
                    f"{metric}: expected {len(seen) + 1} rows (steps 0..{len(seen)}) of "
                    f"{len(domains)} domains, got rows of lengths {[len(row) for row in rows]}"
                )
            for step, row in enumerate(rows):
                for domain, score in zip(domains, row, strict=True):
                    if score is not None:
                        matrix.record(step, domain, {metric: score})
        return matrix

    def _check_step(self, step: int) -> None:
        if not 0 <= step <= self.num_steps:
            raise ValueError(
                f"step {step} is out of range; with {self.num_steps} seen domains steps are "
                f"0 (before training) to {self.num_steps}"
            )

    def _resolve_step(self, metric: str, step: int | None) -> int:
        _check_metric(metric)
        if step is None:
            return self.num_steps
        self._check_step(step)
        return step


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(METRICS)}")


def _known(values: Iterable[float | None]) -> list[float] | None:
    """The values, or None if there are none or one is missing."""
    known: list[float] = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return known or None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return None if known is None else math.fsum(known) / len(known)


def _maximum(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return None if known is None else max(known)


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
