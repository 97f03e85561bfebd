"""Reports after t domains or epochs equal the scores of a run that ended there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.config.run_config import RunConfig
from runner.experiment import run_experiment
from runner.sweep.domain_reports import DomainReports, mean_report
from runner.sweep.objectives import parse_objectives
from runner.sweep.trial_records import Report, TrialRecord
from runner.tracking.event_log import Event, read_events
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


# ---- candidate epochs of a single domain


def stage_event(epochs: int, time: float) -> Event:
    return {"event": "stage", "time": time, "epochs": epochs}


def candidate(epoch: int, mean_ap: float | str, time: float) -> Event:
    validation = dict.fromkeys(METRICS, mean_ap)
    test = dict.fromkeys(METRICS, 100.0 - epoch)
    return {
        "event": "candidate", "time": time, "domain": "a", "epoch": epoch,
        "validation": validation, "test": test,
    }  # fmt: skip


def single_domain_events(scores: list[float | str]) -> list[Event]:
    clock = count(100.0, 10.0)
    events = [{**run_event(next(clock)), "seen": ["a"], "unseen": []}]
    events.append(stage_event(len(scores), next(clock)))
    events += [candidate(epoch, each, next(clock)) for epoch, each in enumerate(scores, start=1)]
    return events


def epoch_reports_of(events: list[Event]) -> list[Report]:
    reports = DomainReports(by_epoch=True, num_seeds=2)
    return [report for event in events if (report := reports.take(event))]


def test_reports_after_epochs_have_the_scores_of_the_selected_epoch() -> None:
    reports = epoch_reports_of(single_domain_events([40.0, 55.0, 50.0, 55.0]))
    assert [each.validation["seen_mAP"] for each in reports] == [40.0, 55.0, 55.0, 55.0]
    # The earliest epoch on a tie; the test score is that of the same epoch.
    assert [each.test["seen_R1"] for each in reports] == [99.0, 98.0, 98.0, 98.0]
    assert [each.progress for each in reports] == [1, 2, 3, 4]
    assert [each.learned_domains for each in reports] == [0, 0, 0, 1]
    assert [each.reached(1) for each in reports] == ["1/8", "2/8", "3/8", "4/8"]
    assert [each.seconds for each in reports] == [20, 30, 40, 50]


def test_an_epoch_without_a_score_is_not_selected() -> None:
    first, second = epoch_reports_of(single_domain_events(["nan", 30.0]))
    assert parse_objectives("seen_mAP")[0].of(first) is None
    assert second.validation["seen_mAP"] == 30.0


def test_a_resumed_run_reports_no_epoch_twice() -> None:
    events = single_domain_events([40.0, 55.0, 50.0, 57.0])
    later = [{**event, "time": event["time"] + 1000} for event in events[3:]]
    # Killed after epoch 2 and before its checkpoint: the epoch is trained again.
    resumed = epoch_reports_of([*events[:4], {**events[0], "time": 1100.0}, events[1], *later])
    whole = epoch_reports_of(events)
    assert [each.epochs for each in resumed] == [1, 2, 3, 4]
    assert [each.validation for each in resumed] == [each.validation for each in whole]
    record = TrialRecord(0, {})
    for report in [*whole[:2], *resumed]:
        record = record.with_report(report)
    assert [each.epochs for each in record.reports] == [1, 2, 3, 4]


def test_epochs_of_seeds_are_summed() -> None:
    last = epoch_reports_of(single_domain_events([40.0, 55.0]))[-1]
    mean = mean_report([last, last])
    assert (mean.progress, mean.reached(2), mean.learned_domains) == (4, "4/4", 2)


def test_the_last_report_of_a_run_has_the_scores_of_its_selection(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, no_figures: None
) -> None:
    single = ("benchmark.order=[plaza]", "benchmark.unseen=[]", "learner.epochs=3")
    config = tiny_config(tmp_path, "finetune", *single, "evaluation.every_epochs=1")
    result = run_experiment(config)
    events = read_events(result.folder / "events.jsonl").events
    reports = DomainReports(by_epoch=True)
    last = [report for event in events if (report := reports.take(event))][-1]
    chosen = result.results["selection"]["validation"]
    assert (last.epochs, last.planned_epochs, last.learned_domains) == (3, 3, 1)
    assert last.validation["seen_mAP"] == chosen["validation"]["mAP"]
    assert last.test["seen_mAP"] == chosen["test"]["mAP"]
