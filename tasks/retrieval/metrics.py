"""Result matrix of a lifelong run and the summary metrics computed from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

METRICS = ("mAP", "R1", "R5", "R10", "mINP")
"""Metrics recorded for every domain after every step, in percent."""


class ResultMatrix:
    """R[i, j]: the score on domain j after step i, in percent, for each metric.

    Step 0 is before training; step i is after learning the i-th of T seen domains, so there are
    T + 1 rows. Columns are the seen domains in lifelong order, then the unseen ones. A summary
    value is None if it depends on a missing cell or is undefined (forgetting with one domain).
    """

    def __init__(self, seen: tuple[str, ...], unseen: tuple[str, ...] = ()) -> None:
        """Creates an empty matrix.

        Raises:
            ValueError: no seen domain, or a repeated domain.
        """
        domains = seen + unseen
        if not seen:
            raise ValueError("seen: expected at least one domain, got none")
        if len(set(domains)) < len(domains):
            raise ValueError(f"expected distinct domains, got {', '.join(domains)}")
        self.seen = seen
        self.unseen = unseen
        self._cells: dict[tuple[str, int, str], float] = {}

    @property
    def num_steps(self) -> int:
        """T, the number of seen domains and index of the last step."""
        return len(self.seen)

    def record(self, step: int, domain: str, scores: Mapping[str, float]) -> None:
        """Records the scores (percent, by metric) on a domain after a step.

        Earlier scores of these metrics are replaced. NaN (an evaluation without a valid query)
        marks the cell as missing.

        Raises:
            ValueError: unknown domain or metric, step not in [0, T], score not in [0, 100].
        """
        self._check_step(step)
        if domain not in self.seen + self.unseen:
            raise ValueError(
                f"domain: expected one of {', '.join(self.seen + self.unseen)}; got {domain!r}"
            )
        for metric, score in scores.items():
            _check_metric(metric)
            if not (math.isnan(score) or 0 <= score <= 100):
                raise ValueError(
                    f"{metric} on {domain} after step {step}: "
                    f"expected a percentage in [0, 100], got {score}"
                )
        for metric, score in scores.items():
            self._cells.pop((metric, step, domain), None)
            if not math.isnan(score):
                self._cells[metric, step, domain] = float(score)

    def score(self, metric: str, step: int, domain: str) -> float | None:
        """R[step, domain], or None if it is missing."""
        return self._cells.get((metric, step, domain))

    def seen_average(self, metric: str, step: int | None = None) -> float | None:
        """Mean score after `step` (default: T) over the domains learned until then.

        Called "anti-forgetting" or "seen average" in the literature. None at step 0.
        """
        step = self._resolve_step(metric, step)
        return _mean(self.score(metric, step, domain) for domain in self.seen[:step])

    def unseen_average(self, metric: str, step: int | None = None) -> float | None:
        """Mean score after `step` (default: T) over the unseen domains ("generalisation")."""
        step = self._resolve_step(metric, step)
        return _mean(self.score(metric, step, domain) for domain in self.unseen)

    def forgetting(self, metric: str) -> float | None:
        """Mean over j < T of max over 1 <= i < T of R[i, j], minus R[T, j].

        Row 0 is excluded from the maximum, because nothing is learned before step 1. Negative if
        earlier domains improve later.
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
        """Mean over j < T of R[T, j] - R[j, j]: change since each domain was learned."""
        _check_metric(metric)
        return _mean(
            _difference(
                self.score(metric, self.num_steps, domain), self.score(metric, step, domain)
            )
            for step, domain in enumerate(self.seen[:-1], start=1)
        )

    def forward_transfer(self, metric: str) -> float | None:
        """Mean over j > 1 of R[j-1, j] - R[0, j]: gain on each domain before it is learned."""
        _check_metric(metric)
        return _mean(
            _difference(self.score(metric, step, domain), self.score(metric, 0, domain))
            for step, domain in enumerate(self.seen[1:], start=1)
        )

    def average_incremental(self, metric: str) -> float | None:
        """Mean of the seen averages after steps 1..T."""
        _check_metric(metric)
        return _mean(self.seen_average(metric, step) for step in range(1, self.num_steps + 1))

    def summary(self) -> dict[str, float | None]:
        """Summary metrics of results.json and sweep objectives, in percent or percentage points."""
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
        """Copy of the matrix without the given unseen domains."""
        kept = tuple(domain for domain in self.unseen if domain not in unseen)
        matrix = ResultMatrix(self.seen, kept)
        matrix._cells = {
            key: score for key, score in self._cells.items() if key[2] in self.seen + kept
        }
        return matrix

    def to_json(self) -> dict[str, list[list[float | None]]]:
        """Rows of steps 0..T by metric, columns seen then unseen; missing cells are None."""
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
        """Restores a matrix from `to_json`; cells of absent metrics are missing.

        Raises:
            ValueError: a table that does not have the size of the domains, or an invalid cell.
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
                f"step: expected 0 (before training) to {self.num_steps} (number of seen domains), "
                f"got {step}"
            )

    def _resolve_step(self, metric: str, step: int | None) -> int:
        _check_metric(metric)
        if step is None:
            return self.num_steps
        self._check_step(step)
        return step


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {metric!r}")


def _known(values: Iterable[float | None]) -> list[float] | None:
    """The values, or None if there are none or any is missing."""
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
