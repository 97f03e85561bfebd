"""Reports of a trial from the events of its run, one for each learned domain.

Reports depend only on the events. A resumed or already finished run therefore gives the same
reports as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from runner.sweep.trial_records import Report
from runner.tracking.event_log import Event, as_number
from tasks.retrieval.metrics import ResultMatrix

Scores = Mapping[str, Mapping[str, object]]
"""Scores in percent by domain and metric, as in an `evaluation` event."""


class DomainReports:
    """Converts the events of a run, in order, to a report for each learned domain.

    Args:
        untested: unseen domains without validation identities, excluded from validation averages.
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
        """Number of seen domains of the run; 0 before the first event."""
        return len(self._seen)

    def take(self, event: Event) -> Report | None:
        """Returns the report that this event completes, if any; each report is returned once."""
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
    """Result matrix of the run as if it had ended after `step` domains.

    Averages are over the domains learned so far, so that trials are comparable at equal steps. At
    the last step the matrix is that of the complete run.
    """
    matrix = ResultMatrix(tuple(seen[:step]), tuple(unseen))
    for row in range(step + 1):
        for domain in matrix.seen + matrix.unseen:
            values = scores.get(row, {}).get(domain, {})
            numbers = {metric: as_number(value) for metric, value in values.items()}
            known = {metric: value for metric, value in numbers.items() if value is not None}
            matrix.record(row, domain, known)
    return matrix


def mean_report(reports: Sequence[Report]) -> Report:
    """Combines the reports of runs with different seeds.

    Numbers of domains and seconds are summed and scores averaged; a score that is missing in one
    report is None.
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
