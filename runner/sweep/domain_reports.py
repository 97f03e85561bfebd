"""Reports of a trial from the events of its run: one for each learned domain, or, if a run over one
domain selects its epoch on validation identities, one for each candidate epoch.

Reports depend only on the events. A resumed or already finished run therefore gives the same
reports as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from runner.sweep.trial_records import Report
from runner.tracking.event_log import Event, as_number
from runner.training.model_selection import Candidate, best_candidate
from tasks.retrieval.metrics import ResultMatrix

Scores = Mapping[str, Mapping[str, object]]
"""Scores in percent by domain and metric, as in an `evaluation` event."""


class DomainReports:
    """Converts the events of a run, in order, to its reports.

    A report has the scores of the run as if it had ended there: after candidate epochs those of the
    epoch that would be selected. The last one therefore has the scores of the selected epoch.

    Args:
        untested: unseen domains without validation identities, excluded from validation averages.
        by_epoch: whether the run has candidate epochs (`evaluation.every_epochs`).
        num_seeds: number of runs of the trial, for `Report.planned_epochs`.
    """

    def __init__(
        self, untested: Collection[str] = (), *, by_epoch: bool = False, num_seeds: int = 1
    ) -> None:
        self._untested = untested
        self._by_epoch = by_epoch
        self._num_seeds = num_seeds
        self._num_epochs = 0
        self._candidates: list[Candidate] = []
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
        if event["event"] == "stage":
            self._num_epochs = int(event["epochs"])
        if event["event"] == "candidate" and self._by_epoch:
            return self._take_candidate(event)
        if event["event"] != "evaluation" or self._by_epoch:
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

    def _take_candidate(self, event: Event) -> Report | None:
        epoch = int(event["epoch"])
        if epoch in self._reported:  # repeated by a resumed run
            return None
        self._reported.add(epoch)
        candidate: Candidate = {
            "epoch": epoch,
            "validation": _numbers(event["validation"]),
            "test": _numbers(event["test"]),
        }
        self._candidates.append(candidate)
        selected = best_candidate(self._candidates, "validation") or candidate
        domain = str(event["domain"])
        validation, test = (
            learned_part([domain], (), {1: {domain: selected[split]}}, 1).summary()
            for split in ("validation", "test")
        )
        return Report(
            learned_domains=int(epoch == self._num_epochs),
            domain=domain,
            validation=validation,
            test=test,
            seconds=self._seconds + self._latest - self._began,
            epochs=epoch,
            planned_epochs=self._num_epochs * self._num_seeds,
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
            matrix.record(row, domain, _numbers(scores.get(row, {}).get(domain, {})))
    return matrix


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    numbers = {metric: as_number(value) for metric, value in values.items()}
    return {metric: value for metric, value in numbers.items() if value is not None}


def mean_report(reports: Sequence[Report]) -> Report:
    """Combines the reports of runs with different seeds.

    Numbers of domains, epochs and seconds are summed and scores averaged; a score that is missing
    in one report is None.
    """
    last = reports[-1]
    epochs = [each.epochs for each in reports if each.epochs is not None]
    return Report(
        learned_domains=sum(report.learned_domains for report in reports),
        domain=last.domain,
        validation=_means([report.validation for report in reports]),
        test=_means([report.test for report in reports]),
        seconds=sum(report.seconds for report in reports),
        epochs=sum(epochs) if epochs else None,
        planned_epochs=last.planned_epochs,
    )


def _means(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in scores[0]:
        values = [each[name] for each in scores]
        known = [value for value in values if value is not None]
        means[name] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return means
