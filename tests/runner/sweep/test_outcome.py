"""Output files, console output and MLflow runs of synthetic sweeps."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.config.run_config import flatten, load_config
from runner.config.sections import TrackingConfig
from runner.config.values_file import read_values
from runner.sweep.console import SweepView
from runner.sweep.importances import MIN_TRIALS
from runner.sweep.mlflow import SweepTracker, send_outcome
from runner.sweep.objectives import Objective, best_trial, pareto_front
from runner.sweep.outcome import Outcome
from runner.sweep.plot_parameters import kernel_mean
from runner.sweep.settings import SweepSettings
from runner.sweep.table import short_names
from runner.sweep.trial_records import Report, TrialRecord, read_records, trial_folder, write_record
from runner.sweep.view import time_left_s
from runner.sweep.write_outcome import write_outcome
from runner.tracking.mlflow_client import TrackingError
from tests.runner.sweep.synthetic_sweep import record_of, settings_of, write_sweep

Make = Callable[..., tuple[Path, SweepSettings, Outcome]]
MORE, LESS = Objective("seen_mAP", "max"), Objective("forgetting_mAP", "min")
ENDS = (("stopped", 1), ("failed", 2), ("finished", 4))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def of(num: int, quick: bool = True, **changes: str) -> tuple[Path, SweepSettings, Outcome]:
        settings = settings_of(num_trials=num, **changes)
        folder = tmp_path / settings.name
        space, config = write_sweep(folder, settings, "smoke", states=ENDS)  # pyright: ignore[reportArgumentType]
        return folder, settings, write_outcome(folder, settings, space, config, quick=quick)

    return of


def trials_of(pairs: list[tuple[float, float]]) -> list[TrialRecord]:
    scores = [{"seen_mAP": one, "forgetting_mAP": other} for one, other in pairs]
    return [
        TrialRecord(number, {}, "finished", (Report(1, "a", each, {}, 1.0),))
        for number, each in enumerate(scores)
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_pareto_front_is_not_dominated(pairs: list[tuple[float, float]]):
    records = trials_of(pairs)
    naive = [
        number
        for number, (mine, less) in enumerate(pairs)
        if not any(a >= mine and b <= less and (a, b) != (mine, less) for a, b in pairs)
    ]
    assert [record.number for record in pareto_front(records, (MORE, LESS))] == naive


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_best_trial_is_the_first_with_the_best_value(pairs: list[tuple[float, float]]):
    records = trials_of(pairs)
    highest, lowest = best_trial(records, MORE), best_trial(records, LESS)
    assert highest
    assert highest.number == int(np.argmax([one for one, _ in pairs]))
    assert lowest
    assert lowest.number == int(np.argmin([other for _, other in pairs]))


def test_only_finished_trials_can_be_best():
    stopped = replace(trials_of([(90.0, 0.0)])[0], state="stopped")
    assert best_trial([stopped], MORE) is None
    assert pareto_front([stopped], (MORE, LESS)) == []


def test_a_nan_score_is_never_best():
    records = trials_of([(math.nan, 0.0), (50.0, math.nan), (40.0, 1.0)])
    best = best_trial(records, MORE)
    assert best
    assert best.number == 1
    assert [each.number for each in pareto_front(records, (MORE, LESS))] == [2]


def test_the_best_preset_has_the_trials_values_and_the_users_storage(make: Make):
    folder, _, outcome = make(6)
    assert outcome.best
    assert outcome.preset
    ran = load_config(str(trial_folder(folder, outcome.best.number) / "seed0" / "config.yaml"))
    mine, default = load_config(str(outcome.preset)), load_config("demo-sweep")
    assert mine.hash == ran.hash != default.hash
    assert (mine.storage, mine.run, mine.tracking) == (
        default.storage, default.run, default.tracking,
    )  # fmt: skip
    assert (mine.cluster, mine.checkpoints) == (default.cluster, default.checkpoints)
    overrides = read_values(folder / "best-values.yaml")
    laid_over = flatten(load_config("demo-vladr", overrides))
    assert {key: laid_over[key] for key in outcome.best.values} == dict(outcome.best.values)
    header = outcome.preset.read_text().partition("seed:")[0]
    assert f"Trial {outcome.best.number}, the best of sweep {folder.name}" in header
    assert "on validation identities, seed 0" in header


def test_without_a_finished_trial_there_is_no_preset(make: Make):
    folder, settings, outcome = make(4)
    for record in read_records(folder):
        write_record(folder, replace(record, state="stopped"))
    again = write_outcome(folder, settings, outcome.space, load_config("demo-sweep"), quick=True)
    assert again.best is None
    assert not (folder / "best.yaml").exists()
    assert not (folder / "best-values.yaml").exists()
    assert "no best trial" in (folder / "table.md").read_text()


def test_tables_have_all_trials_and_domains_saved(make: Make):
    folder, _, outcome = make(6)
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    assert [row["state"] for row in rows[:4]] == ["finished", "stopped", "failed", "finished"]
    assert rows[2]["reason"] == "loss is not finite in iteration 7"
    for row, record in zip(rows, outcome.records, strict=True):
        assert record.last is not None
        assert float(row["seen_mAP"]) == record.last.validation["seen_mAP"]
        assert float(row["test.seen_mAP"]) == record.last.test["seen_mAP"]
        assert {key for key in outcome.keys if row[key]} == set(record.values)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["scheduler"]["domains_saved"] == 3  # of the one stopped after 1 of 4
    assert summary["trials"] == {"finished": 4, "stopped": 1, "failed": 1}
    assert summary["default"]["number"] == 0


@pytest.mark.parametrize("num", [1, MIN_TRIALS + 3])
def test_figures_and_importances(make: Make, num: int):
    folder, _, outcome = make(num, quick=False, objective="seen_mAP,forgetting_mAP")
    names = {file.name for file in (folder / "pictures").iterdir()}
    assert {"history.png", "slice.png", "parallel.png", "pareto.png"} < names
    assert ("importances.png" in names) == (num > MIN_TRIALS), "no page without importances"
    found = outcome.importances["seen_mAP"]
    if num < MIN_TRIALS:
        assert not found.of
        assert found.why == f"too few finished trials: expected at least {MIN_TRIALS}, got 1"
    else:
        shares = [each.share for each in found.of.values() if not each.is_conditional]
        assert sum(shares) == pytest.approx(1)
    presets = {int(file.stem) for file in (folder / "pareto").iterdir()}
    assert presets == {record.number for record in outcome.front}


def test_short_names_are_unique():
    keys = ["learner.icar.optimizer.lr", "learner.mtad.optimizer.lr", "learner.weight", "a.b.c"]
    assert list(short_names(keys).values()) == [
        "icar.optimizer.lr", "mtad.optimizer.lr", "weight", "b.c",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=9))
def test_kernel_mean_is_the_weighted_mean(points: list[tuple[float, float]]):
    places = np.array([0.0, 0.4, 1.0])
    found = kernel_mean(places, np.array(points), 0.3)
    for place, value in zip(places, found, strict=True):
        weights = [np.exp(-0.5 * ((place - x) / 0.3) ** 2) for x, _ in points]
        mean = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / sum(weights)
        assert value == pytest.approx(mean, abs=1e-9)


def test_time_left_is_the_mean_duration_over_concurrent_trials():
    settings = settings_of(num_trials=5, concurrent=2)
    ended = [record_of(number, {}, learned=2) for number in (0, 1)]  # 60 s each
    assert time_left_s([], settings, 0.0) is None
    assert time_left_s(ended, settings, 0.0) == pytest.approx(90)
    running = replace(record_of(2, {}, "running", 1), began=1000.0)
    assert time_left_s([*ended, running], settings, 1020.0) == pytest.approx(80)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_prints_every_event_once(make: Make, terminal: bool):
    folder, settings, outcome = make(4)
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=terminal, no_color=True)
    config = load_config("demo-sweep")
    with SweepView(console, settings, folder, outcome.space, config) as view:
        for record in outcome.records:
            began = replace(record, state="running", ended=None, reports=(), reason=None)
            view.show(began)
            ended = replace(record, ended=record.ended and record.ended + 1e10)
            view.show(ended)
            view.show(ended)
        view.finish(outcome)
    output = stream.getvalue()
    assert output.count("trial 2 failed: loss is not finite in iteration 7") == 1
    assert output.count("trial 1 stopped after 1/4 domains") == 1
    if not terminal:
        assert output.count("trial 0 starts: prototype_relation.weight=") == 1
        assert output.count("trial 0 learned 3/4 office: seen_mAP") == 1
    assert "not used by the search" in output
    assert "run --preset" in output


@pytest.mark.slow
def test_a_sweep_is_sent_to_mlflow_once(make: Make, tmp_path: Path):
    from mlflow import MlflowClient

    folder, settings, _ = make(4)
    dead = TrackingConfig(uri="http://127.0.0.1:9", request_retries=0)
    with pytest.raises(TrackingError, match="no answer"):
        send_outcome(folder, settings, dead)
    told: list[str] = []
    message = SweepTracker(folder, settings, dead, told.append).close(60)
    assert message
    assert "repeat the command to send it later" in message
    alive = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert send_outcome(folder, settings, alive, files=False) == 5
    assert send_outcome(folder, settings, alive) == 1  # the parent, with its files
    assert send_outcome(folder, settings, alive) == 0
    client = MlflowClient(alive.uri)
    experiment = client.get_experiment_by_name("lifelong-reid")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["objective"] == "seen_mAP"
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "trials.csv", "summary.json", "table.md"} <= files
    failed = next(run for run in runs if run.data.tags.get("state") == "failed")
    assert failed.info.status == "FAILED"
    assert "not finite" in failed.data.tags["reason"]
    steps = client.get_metric_history(failed.info.run_id, "validation.seen_mAP")
    record = read_records(folder)[2]
    assert {each.step: each.value for each in steps} == {
        report.learned_domains: report.validation["seen_mAP"] for report in record.reports
    }
