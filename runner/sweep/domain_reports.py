"""A run's events turned into what its trial reports: scores of what is learned, domain by domain.

Nothing but the events is asked, so a run that goes on after a kill, or that was finished before,
reports what one that nobody disturbed would.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from runner.sweep.trial_records import Report
from runner.tracking.event_log import Event, as_number
from tasks.retrieval.metrics import ResultMatrix

Scores = Mapping[str, Mapping[str, object]]
"""Percent by domain and metric, as an `evaluation` event has them."""


class DomainReports:
    """Takes a run's events in their order and gives a report for each domain as it is learned.

    Args:
        untested: unseen domains with nobody to validate on; an average is that of the others.
    """

    def __init__(self, untested: Collection[str] = ()) -> None:
        self._untested = untested
        self._seen: tuple[str, ...] = ()
        self._unseen: tuple[str, ...] = ()
        self._scores: dict[str, dict[int, Scores]] = {"validation": {}, "test": {}}
        self._reported: set[int] = set()
        self._seconds = 0.0
        self._began = self._latest = math.nan

    @property
    def num_domains(self) -> int:
        """Seen domains of the run; 0 before its first event."""
        return len(self._seen)

    def take(self, event: Event) -> Report | None:
        """The report that this event completes; each is given once."""
        if event["event"] == "run":
            self._start(event)
        self._latest = float(event["time"])
        if event["event"] != "evaluation":
            return None
        step = int(event["step"])
        self._scores[event["split"]][step] = event["scores"]
        known = all(step in scores for scores in self._scores.values())
        if not step or not known or step in self._reported:
            return None
        self._reported.add(step)
        return Report(
            learned_domains=step,
            domain=self._seen[step - 1],
            validation=self._summary("validation", step),
            test=self._summary("test", step),
            seconds=self._seconds + self._latest - self._began,
        )

    def _start(self, event: Event) -> None:
        self._seen, self._unseen = tuple(event["seen"]), tuple(event["unseen"])
        if not math.isnan(self._began):
            self._seconds += self._latest - self._began
        self._began = float(event["time"])

    def _summary(self, split: str, step: int) -> dict[str, float | None]:
        matrix = learned_part(self._seen, self._unseen, self._scores[split], step)
        return (matrix.without(self._untested) if split == "validation" else matrix).summary()


def learned_part(
    seen: Sequence[str], unseen: Sequence[str], scores: Mapping[int, Scores], step: int
) -> ResultMatrix:
    """The matrix of a run that would have ended after `step` domains.

    So its averages are those over the domains learned so far, comparable between trials at equal
    steps; at the last step it is the run's own.
    """
    matrix = ResultMatrix(tuple(seen[:step]), tuple(unseen))
    for row in range(step + 1):
        for domain in matrix.seen + matrix.unseen:
            found = scores.get(row, {}).get(domain, {})
            numbers = {metric: as_number(value) for metric, value in found.items()}
            known = {metric: value for metric, value in numbers.items() if value is not None}
            matrix.record(row, domain, known)
    return matrix


def mean_report(reports: Sequence[Report]) -> Report:
    """One report of runs that differ in their seed: what they learned together, scores averaged.

    A score that one of them does not have is None.
    """
    last = reports[-1]
    return Report(
        learned_domains=sum(report.learned_domains for report in reports),
        domain=last.domain,
        validation=_means([report.validation for report in reports]),
        test=_means([report.test for report in reports]),
        seconds=sum(report.seconds for report in reports),
    )


def _means(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in scores[0]:
        values = [each[name] for each in scores]
        known = [value for value in values if value is not None]
        means[name] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return means
