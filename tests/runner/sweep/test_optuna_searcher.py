"""Searcher, storage of studies, records of trials, and schedulers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

from runner.sweep.objectives import parse_objectives
from runner.sweep.optuna_searcher import StudySearcher, open_storage, open_study
from runner.sweep.samplers import make_sampler
from runner.sweep.schedulers import make_scheduler
from runner.sweep.settings import SweepSettings, read_settings, write_settings
from runner.sweep.trial_records import Report, TrialRecord, read_records, write_record
from runner.sweep.tune_callback import Recorder, reconcile

SETTINGS = SweepSettings(
    name="s", preset="demo", overrides=(), num_trials=12, concurrent=2, sampler="tpe",
    scheduler="asha", objective="seen_mAP", seeds=(0,), sampler_seed=3,
)  # fmt: skip


def suggest(trial: Trial) -> dict[str, Any]:
    kind = trial.suggest_categorical("learner.a", ["x", "y"])
    return {"learner.a": kind, "learner.b.c": trial.suggest_float("learner.b.c", 0.0, 1.0)}


def searcher_of(storage: InMemoryStorage, objective: str = "seen_mAP") -> StudySearcher:
    return StudySearcher(suggest, parse_objectives(objective), RandomSampler(seed=0), storage, "s")


def result_of(step: int, value: float, finished: bool = False) -> dict[str, Any]:
    return {"progress": step, "seen_mAP": value, "finished": finished}


def report_of(step: int, value: float) -> Report:
    return Report(step, "d", {"seen_mAP": value}, {}, 1.0)


def test_the_study_has_the_final_state_of_every_trial() -> None:
    searcher = searcher_of(InMemoryStorage())
    for number, name in enumerate(("finished", "stopped", "failed", "died", "waiting")):
        suggested = searcher.suggest(name)
        assert suggested is not None
        assert suggested["number"] == number
        assert set(json.loads(suggested["values"])) == {"learner.a", "learner.b.c"}
    searcher.on_trial_result("finished", result_of(1, 30.0))
    searcher.on_trial_complete("finished", result_of(2, 40.0, finished=True))
    searcher.on_trial_result("stopped", result_of(1, 10.0))
    searcher.on_trial_result("stopped", result_of(1, 10.0))  # started again
    searcher.on_trial_complete("stopped", result_of(2, 12.0))  # its report comes with its end
    searcher.on_trial_complete("failed", {"failed": "NaN"})
    searcher.on_trial_complete("died", error=True)
    searcher.on_trial_complete("waiting")  # ended before it began
    trials = searcher.study.trials
    states = [each.state for each in trials]
    assert states == [
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL,
        TrialState.RUNNING,
    ]  # fmt: skip
    assert trials[0].value == 40
    assert trials[1].intermediate_values == {1: 10.0, 2: 12.0}


def test_trials_of_a_killed_driver_are_suggested_first() -> None:
    storage = InMemoryStorage()
    before = searcher_of(storage)
    interrupted = [before.suggest(name) for name in ("a", "b", "c")]
    before.on_trial_complete("b", result_of(2, 40.0, finished=True))
    after = searcher_of(storage)
    assert [after.suggest(name) for name in ("d", "e")] == [interrupted[0], interrupted[2]]
    new = after.suggest("f")
    assert new is not None
    assert new["number"] == 3
    after.on_trial_complete("d", result_of(2, 50.0, finished=True))
    assert after.study.trials[0].value == 50
    assert after.study.best_trial.number == 0


def test_several_objectives_are_told_in_order() -> None:
    searcher = searcher_of(InMemoryStorage(), "seen_mAP,forgetting_mAP")
    searcher.suggest("a")
    searcher.on_trial_result("a", result_of(1, 30.0))
    searcher.on_trial_complete("a", result_of(2, 40.0, finished=True) | {"forgetting_mAP": 3.0})
    assert searcher.study.trials[0].values == [40.0, 3.0]
    names = [each.name for each in searcher.study.directions]
    assert names == ["MAXIMIZE", "MINIMIZE"]


def test_a_finished_trial_without_a_value_fails() -> None:
    searcher = searcher_of(InMemoryStorage())
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"progress": 2, "finished": True})
    assert searcher.study.trials[0].state == TrialState.FAIL


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2"])
def test_an_interrupted_sweep_has_the_values_of_an_unbroken_one(sampler: Any) -> None:
    settings = SweepSettings(
        **{**vars(SETTINGS), "sampler": sampler, "num_trials": 8, "concurrent": 1}
    )

    def values_of(kills: set[int]) -> list[dict[str, Any]]:
        storage = InMemoryStorage()

        def start() -> StudySearcher:
            objectives = parse_objectives("seen_mAP")
            return StudySearcher(suggest, objectives, make_sampler(settings), storage, "s")

        searcher = start()
        for number in range(8):
            if number in kills:
                trial = searcher.study.ask()
                trial.suggest_categorical("learner.a", ["x", "y"])
                if sampler == "gp":  # counts its partly stored trial among the running ones
                    trial.suggest_float("learner.b.c", 0.0, 1.0)
                searcher = start()  # the driver was killed
            suggested = searcher.suggest(str(number))
            assert suggested is not None
            assert suggested["number"] == number
            score = 30 + 10 * json.loads(suggested["values"])["learner.b.c"]
            searcher.on_trial_complete(str(number), result_of(2, score, finished=True))
        return [each.params for each in searcher.study.trials]

    unbroken = values_of(set())
    assert len({each["learner.b.c"] for each in unbroken}) > 3
    assert values_of({1, 4, 7}) == unbroken


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2"])
def test_all_samplers_support_one_and_several_objectives(sampler: Any) -> None:
    settings = SweepSettings(**{**vars(SETTINGS), "sampler": sampler, "num_trials": 8})
    for objective in ("seen_mAP", "seen_mAP,forgetting_mAP"):
        searcher = StudySearcher(
            suggest, parse_objectives(objective), make_sampler(settings), None, "s"
        )
        for number in range(5):
            searcher.suggest(str(number))
            ended = result_of(2, 30.0 + number, finished=True) | {"forgetting_mAP": number * 1.0}
            searcher.on_trial_complete(str(number), ended)
        assert all(each.state == TrialState.COMPLETE for each in searcher.study.trials)


# ---- the database


def test_a_locked_database_raises_immediately(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("runner.sweep.optuna_searcher.LOCK_WAIT_S", 0.1)
    url = f"sqlite:///{tmp_path}/study.db"
    open_study(SETTINGS, open_storage(url))
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConnectionError, match=r"study\.db is not writable .*locked"):
            open_storage(url)
        other.execute("ROLLBACK")
    open_storage(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@nowhere/x", "psycopg, .* pip install 'psycopg"),
        ("nonsense", "expected the URL of a database"),
        ("oracle9://x", "expected the URL of a database"),
        ("sqlite:////nowhere/at/all/study.db", "is not writable"),
    ],
)
def test_an_unusable_database_raises_without_the_password(url: str, message: str) -> None:
    with pytest.raises((ValueError, ConnectionError), match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_a_study_with_other_objectives_raises(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    open_study(SETTINGS, storage)
    other = SweepSettings(**{**vars(SETTINGS), "objective": "forgetting_mAP"})
    with pytest.raises(ValueError, match="choose another --name"):
        open_study(other, storage)


def test_passwords_are_not_written(tmp_path: Path) -> None:
    url = "postgresql://me:secret@host/study"
    write_settings(tmp_path, SweepSettings(**{**vars(SETTINGS), "storage": url}))
    assert read_settings(tmp_path).storage == "postgresql://me:***@host/study"


# ---- records


class FakeTrial:
    """Attributes of a Tune trial that callbacks use."""

    def __init__(self, number: int, **result: Any) -> None:
        self.config = {"number": number, "values": json.dumps({"learner.a": number})}
        self.last_result = result
        self.run_metadata = self
        self.num_failures = 4

    def get_error(self) -> Exception:
        return RuntimeError("the actor died\nmore")


def reported(step: int, value: float) -> dict[str, Any]:
    return {"report": json.dumps(vars(report_of(step, value)))}


def test_records_follow_the_trials(tmp_path: Path) -> None:
    seen: list[TrialRecord] = []
    recorder = Recorder(tmp_path, on_end=seen.append)
    trials = [FakeTrial(0, finished=True), FakeTrial(1), FakeTrial(2, failed="NaN"), FakeTrial(3)]
    for trial in trials:
        recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trials[0], reported(1, 30.0))
    recorder.on_trial_result(0, [], trials[0], reported(2, 40.0))
    recorder.on_trial_result(0, [], trials[0], reported(1, 30.0))
    recorder.on_trial_result(0, [], trials[2], {"failed": "NaN"})
    for trial in trials[:3]:
        recorder.on_trial_complete(0, [], trial)
    recorder.on_trial_error(0, [], trials[3])
    records = read_records(tmp_path)
    assert [each.state for each in records] == ["finished", "stopped", "failed", "failed"]
    assert [each.learned_domains for each in records[0].reports] == [1, 2]
    assert records[2].reason == "NaN"
    assert "the actor died" in str(records[3].reason)
    assert records == seen
    # Another driver keeps the reports of a trial that it restarts.
    again = Recorder(tmp_path)
    again.on_trial_start(0, [], trials[0])
    record = read_records(tmp_path)[0]
    assert (record.state, len(record.reports), record.began) == ("running", 2, records[0].began)


def test_reconcile_updates_records_from_the_study(tmp_path: Path) -> None:
    searcher = searcher_of(InMemoryStorage())
    for number, name in enumerate("abcd"):
        searcher.suggest(name)
        write_record(tmp_path, TrialRecord(number, {}))
    searcher.on_trial_complete("a", result_of(2, 40.0, finished=True))
    searcher.on_trial_complete("b", result_of(1, 10.0))
    searcher.on_trial_complete("c", {"failed": "NaN"})
    states = [each.state for each in reconcile(tmp_path, searcher.study)]
    assert states == ["finished", "stopped", "failed", "running"]


# ---- schedulers


class Running:
    def __init__(self, trial_id: str, number: int = 99) -> None:
        self.trial_id = trial_id
        self.config = {"number": number}


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_new_trials_are_compared_with_those_of_earlier_drivers(kind: Any) -> None:
    (objective,) = parse_objectives("seen_mAP")
    past = [
        TrialRecord(number, {}, "finished", (report_of(1, 50.0 + number), report_of(2, 60.0)))
        for number in range(4)
    ]
    failed = TrialRecord(9, {}, "failed", (report_of(1, 99.0),))
    scheduler = make_scheduler(kind, objective, 2, [*past, failed])
    fresh = make_scheduler(kind, objective, 2)
    controller: Any = None
    for value, with_past, without_past in (
        (10.0, "STOP", "CONTINUE"),
        (70.0, "CONTINUE", "CONTINUE"),
    ):
        trial: Any = Running(str(value))
        for each, expected in ((scheduler, with_past), (fresh, without_past)):
            each.on_trial_add(controller, trial)
            assert each.on_trial_result(controller, trial, result_of(1, value)) == expected
            # A restarted trial reports the same value, which must not stop it.
            if expected == "CONTINUE":
                again = each.on_trial_result(controller, trial, result_of(1, value))
                assert again == "CONTINUE"


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_grace_and_protection_keep_trials_running(kind: Any) -> None:
    (objective,) = parse_objectives("seen_mAP")
    reports = tuple(report_of(domain, 90.0) for domain in (1, 2, 3, 4))
    past = [TrialRecord(number, {}, "finished", reports) for number in range(1, 5)]
    scheduler = make_scheduler(kind, objective, 4, past, grace=2, protected=[0])
    controller: Any = None
    worst, default = Running("worst", 7), Running("default", 0)
    for each in (worst, default):
        scheduler.on_trial_add(controller, each)
    decisions = {
        each.trial_id: [
            scheduler.on_trial_result(controller, each, result_of(domain, 1.0)) for domain in (1, 2)
        ]
        for each in (worst, default)
    }
    assert decisions == {"worst": ["CONTINUE", "STOP"], "default": ["CONTINUE", "CONTINUE"]}


def test_a_report_without_forgetting_continues() -> None:
    (objective,) = parse_objectives("forgetting_mAP")
    for kind in ("asha", "median"):
        scheduler = make_scheduler(kind, objective, 4)
        controller: Any = None
        trial: Any = Running("a")
        scheduler.on_trial_add(controller, trial)
        decision = scheduler.on_trial_result(controller, trial, {"progress": 1})
        assert decision == "CONTINUE"
