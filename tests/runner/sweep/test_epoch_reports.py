"""Trials over one domain report after every candidate epoch, and the scheduler may stop them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from runner.sweep import trial
from runner.sweep.objectives import parse_objectives
from runner.sweep.schedulers import make_scheduler
from runner.sweep.trial_records import PROGRESS, Report, TrialRecord
from runner.tracking.event_log import Event, EventLog

OBJECTIVES = parse_objectives("seen_mAP")
Arguments = Callable[..., list[str]]


class Stopped(BaseException):
    """Ends a trial as Ray Tune does: its process does not continue after the report."""


@dataclass
class Tune:
    """Takes the place of `ray.tune` in a trial: passes reports to a scheduler.

    Attributes:
        scheduler: scheduler of all trials.
        records: records of the trials by number.
    """

    scheduler: TrialScheduler
    records: dict[int, TrialRecord]
    current: Any = None

    def start(self, number: int) -> None:
        self.current = type(
            "Running", (), {"trial_id": str(number), "config": {"number": number}}
        )()
        self.records.setdefault(number, TrialRecord(number, {}))
        self.scheduler.on_trial_add(None, self.current)  # pyright: ignore[reportArgumentType]

    def report(self, result: dict[str, Any]) -> None:
        number = self.current.config["number"]
        assert "failed" not in result, result["failed"]
        report = Report(**json.loads(result["report"]))
        assert result[PROGRESS] == report.progress
        self.records[number] = self.records[number].with_report(report)
        controller: Any = None
        decision = self.scheduler.on_trial_result(controller, self.current, result)
        if decision == TrialScheduler.STOP and not result["finished"]:
            raise Stopped


def candidate(epoch: int, mean_ap: float) -> dict[str, Any]:
    scores = {"mAP": mean_ap, "R1": mean_ap, "R5": mean_ap, "R10": mean_ap, "mINP": mean_ap}
    return {"epoch": epoch, "domain": "plaza", "validation": scores, "test": scores}


@pytest.fixture
def run_trial(
    tiny_arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrialRecord]:
    """Runs a trial with these validation scores after each epoch, under one ASHA scheduler."""
    scheduler = make_scheduler("asha", OBJECTIVES[0], None, grace=2)
    tune = Tune(scheduler, {})
    monkeypatch.setattr(trial, "tune", tune)
    given = tiny_arguments(tmp_path, "finetune", "evaluation.every_epochs=1")[2:]
    overrides = tuple(each for each in given if not each.startswith(("storage.", "tracking.")))
    task = trial.TrialTask(
        folder=tmp_path, home=tmp_path, preset="demo-finetune", overrides=overrides, seeds=(0,),
        objectives=OBJECTIVES, untested=(),
    )  # fmt: skip

    def run(number: int, scores: list[float], kill_after: int | None = None) -> TrialRecord:
        def train(config: Any, view: Any, shared: Any) -> None:
            folder = Path(config.storage.root) / config.run.name
            folder.mkdir(parents=True, exist_ok=True)
            log = EventLog(folder / "events.jsonl")

            def emit(event: str, **fields: Any) -> None:
                log.emit(event, **fields)
                written: Event = {"event": event, "time": 0.0, **fields}
                view.handle(written)

            emit("run", seen=["plaza"], unseen=[])
            emit("stage", epochs=len(scores))
            for epoch, score in enumerate(scores, start=1):
                emit("candidate", **candidate(epoch, score))
                if epoch == kill_after:
                    raise Stopped

        monkeypatch.setattr(trial, "run_experiment", train)
        tune.start(number)
        with suppress(Stopped):
            trial.run_trial({"number": number, "values": "{}"}, task)
        return tune.records[number]

    return run


def test_asha_stops_a_trial_at_an_epoch(run_trial: Callable[..., TrialRecord]) -> None:
    good = run_trial(0, [30.0, 60.0, 50.0, 40.0, 45.0])
    assert [each.epochs for each in good.reports] == [1, 2, 3, 4, 5]
    assert good.last is not None
    assert OBJECTIVES[0].of(good.last) == 60.0, "the selected epoch, not the last one"
    worse = run_trial(1, [10.0, 20.0, 90.0, 90.0, 90.0])
    assert [each.epochs for each in worse.reports] == [1, 2], "stopped at the grace period"
    better = run_trial(2, [10.0, 65.0, 90.0, 80.0, 90.0])
    assert better.last is not None
    assert (better.progress, OBJECTIVES[0].of(better.last)) == (5, 90.0)


def test_a_restarted_trial_reports_no_epoch_twice(run_trial: Callable[..., TrialRecord]) -> None:
    scores = [30.0, 60.0, 50.0, 70.0]
    killed = run_trial(0, scores, kill_after=3)
    assert [each.epochs for each in killed.reports] == [1, 2, 3]
    # The run repeats all epochs; its events are in the log twice.
    resumed = run_trial(0, scores)
    assert [each.epochs for each in resumed.reports] == [1, 2, 3, 4]
    assert resumed.last is not None
    assert OBJECTIVES[0].of(resumed.last) == 70.0
