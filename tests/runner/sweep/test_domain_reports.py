"""Reports after t domains equal the scores of a run over t domains."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from runner.sweep.domain_reports import DomainReports, mean_report
from runner.sweep.trial_records import Report
from runner.tracking.event_log import Event
from tasks.retrieval.metrics import METRICS

SEEN, UNSEEN = ("a", "b", "c"), ("u", "v")
RNG = np.random.default_rng(0)
SCORES = {
    split: RNG.uniform(0, 100, (len(SEEN) + 1, len(SEEN + UNSEEN), len(METRICS)))
    for split in ("validation", "test")
}


def run_event(time: float) -> Event:
    return {"event": "run", "time": time, "seen": list(SEEN), "unseen": list(UNSEEN)}


def evaluation(step: int, split: str, time: float) -> Event:
    rows = dict(zip(SEEN + UNSEEN, SCORES[split][step].tolist(), strict=True))
    scores: dict[str, Any] = {
        domain: dict(zip(METRICS, values, strict=True)) for domain, values in rows.items()
    }
    if split == "validation":
        scores["v"] = dict.fromkeys(METRICS, "nan")  # no validation identities
    return {"event": "evaluation", "time": time, "step": step, "split": split, "scores": scores}


def events_of_a_run() -> list[Event]:
    clock = count(100.0, 10.0)
    events = [run_event(next(clock))]
    for step in range(len(SEEN) + 1):
        events += [evaluation(step, split, next(clock)) for split in ("test", "validation")]
    return events


def reports_of(events: list[Event]) -> list[Report]:
    reports = DomainReports(untested=("v",))
    return [report for event in events if (report := reports.take(event))]


def test_scores_are_averages_over_learned_domains() -> None:
    reports = reports_of(events_of_a_run())
    assert [each.learned_domains for each in reports] == [1, 2, 3]
    assert [each.domain for each in reports] == list(SEEN)
    for report in reports:
        t, valid, test = report.learned_domains, SCORES["validation"], SCORES["test"]
        assert report.validation["seen_mAP"] == pytest.approx(valid[t, :t, 0].mean())
        assert report.test["seen_R1"] == pytest.approx(test[t, :t, 1].mean())
        assert report.validation["unseen_mAP"] == pytest.approx(valid[t, 3, 0])
        assert report.test["unseen_mAP"] == pytest.approx(test[t, 3:, 0].mean())
        best = [valid[1:t, j, 0].max(initial=0) for j in range(t - 1)]
        forgotten = [best[j] - valid[t, j, 0] for j in range(t - 1)]
        expected = pytest.approx(np.mean(forgotten)) if forgotten else None
        assert report.validation["forgetting_mAP"] == expected
    assert [each.seconds for each in reports] == [40, 60, 80]


def test_a_resumed_run_gives_the_same_reports() -> None:
    events = events_of_a_run()
    # Killed after the first domain and restarted 1000 s later, with the evaluation repeated.
    later = [{**event, "time": event["time"] + 1000} for event in events[3:]]
    resumed = reports_of([*events[:5], run_event(1100.0), *later])
    whole = reports_of(events)
    assert [each.validation for each in resumed] == [each.validation for each in whole]
    assert [each.seconds for each in resumed] == [40, 40 + 60, 40 + 80]


def test_reports_of_seeds_are_averaged() -> None:
    left = Report(3, "c", {"seen_mAP": 40.0, "unseen_mAP": None}, {"seen_mAP": 10.0}, 5.0)
    right = Report(3, "c", {"seen_mAP": 60.0, "unseen_mAP": 1.0}, {"seen_mAP": 30.0}, 7.0)
    mean = mean_report([left, right])
    assert mean.validation == {"seen_mAP": 50.0, "unseen_mAP": None}
    assert (mean.learned_domains, mean.test["seen_mAP"], mean.seconds) == (6, 20.0, 12.0)
    assert mean_report([left]) == left
