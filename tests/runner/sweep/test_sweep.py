"""Sweeps of tiny trials: failures, killed processes, and resuming."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from runner import lifelong
from runner.sweep.trial_records import read_records, trial_folder
from runner.tracking.event_log import read_events

Arguments = Callable[..., list[str]]

pytestmark = pytest.mark.slow

SPACE = """
learner.optimizer.lr: {type: categorical, choices: [0.0005, 1.0e+30]}
learner.losses.identity.label_smoothing: {type: float, low: 0.0, high: 0.2}
"""
STABLE = """
learner.losses.identity.label_smoothing: {type: float, low: 0.0, high: 0.2}
"""


@pytest.fixture
def arguments(tiny_arguments: Arguments, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a sweep in the test's folder over a space of this text."""

    def make(text: str, *options: str) -> list[str]:
        (tmp_path / "space.yaml").write_text(text)
        given = [each for each in tiny_arguments(tmp_path) if not each.startswith("storage.")]
        where = ["--sweeps", str(tmp_path), "--name", "sweep"]
        return ["sweep", str(tmp_path / "space.yaml"), *where, *given, *options]

    return make


def num_starts(sweep: Path, number: int) -> int:
    file = trial_folder(sweep, number) / "seed0" / "attempt.json"
    return json.loads(file.read_text())["attempt"] if file.exists() else 0


def learned(sweep: Path, number: int) -> list[str]:
    events = read_events(trial_folder(sweep, number) / "seed0" / "events.jsonl").events
    return [event["domain"] for event in events if event["event"] == "domain_finished"]


def test_two_objectives_and_trials_that_raise(
    ray_session: None,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = ("--objective", "seen_mAP,forgetting_mAP", "--sampler", "random")
    status = lifelong.main(arguments(SPACE, *objective, "--trials", "5", "--concurrent", "3"))
    output = capsys.readouterr().out
    assert status == 0, output
    sweep = tmp_path / "sweep"
    records = read_records(sweep)
    assert [each.number for each in records] == [0, 1, 2, 3, 4]
    raised = [each.values["learner.optimizer.lr"] > 1 for each in records]
    assert not raised[0], "the first trial has the values of the preset"
    assert any(raised)
    for record, has_raised in zip(records, raised, strict=True):
        assert record.state == ("failed" if has_raised else "finished")
        if has_raised:
            assert "FloatingPointError" in str(record.reason)
            continue
        results = trial_folder(sweep, record.number) / "seed0" / "results.json"
        assert record.last is not None
        assert record.last.learned_domains == 2
        summary = json.loads(results.read_text())
        assert dict(record.last.validation) == summary["validation_summary"]
        assert dict(record.last.test) == summary["summary"]
        assert not (results.parent / "checkpoints").exists()
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep}/study.db")
    assert [each.state.name == "FAIL" for each in study.trials] == raised
    last = records[0].last
    assert last is not None
    assert study.trials[0].values == [
        last.validation["seen_mAP"], last.validation["forgetting_mAP"]
    ]  # fmt: skip
    # All trials have ended: another start does not connect to Ray.
    monkeypatch.delattr("runner.sweep.run.connected")
    before = {each: each.stat().st_mtime_ns for each in sweep.glob("trials/*/seed0/*")}
    again = arguments(SPACE, *objective, "--trials", "5", "--concurrent", "3")
    assert lifelong.main(again) == 0
    output = capsys.readouterr().out
    assert output.startswith("Sweep sweep: found 5 of 5 trials ended")
    assert before == {each: each.stat().st_mtime_ns for each in before}


@pytest.fixture
def start(run_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts drivers in separate processes and kills them after the test."""
    family = set[psutil.Process]()
    drivers: list[psutil.Popen] = []

    def start_driver(arguments: list[str]) -> psutil.Popen:
        command = [sys.executable, str(Path(lifelong.__file__)), *arguments]
        with (tmp_path / "log").open("wb") as log:
            drivers.append(
                psutil.Popen(command, env=run_environment, stdout=log, stderr=subprocess.STDOUT)
            )
        return drivers[-1]

    yield start_driver
    for driver in drivers:
        with contextlib.suppress(psutil.NoSuchProcess):
            family.update([driver, *driver.children(recursive=True)])
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until(done: Callable[[], bool], driver: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_killed_driver_and_a_killed_trial(
    start: Callable[..., psutil.Popen], arguments: Arguments, tmp_path: Path
) -> None:
    sweep, log = tmp_path / "sweep", tmp_path / "log"
    # Long enough that processes do not end before they are killed.
    given = ["--trials", "3", "--concurrent", "1", "--scheduler", "none", "learner.epochs=12"]
    command = arguments(STABLE, *given)
    driver = start(command)
    wait_until(lambda: len(learned(sweep, 1)) == 1, driver, log)
    family = [driver, *driver.children(recursive=True)]
    driver.kill()
    driver.wait()
    states = [each.state for each in read_records(sweep)]
    assert states == ["finished", "running"]
    results = trial_folder(sweep, 0) / "seed0" / "results.json"
    before = results.stat().st_mtime_ns

    driver = start([*command, "--resume"])
    wait_until(lambda: len(learned(sweep, 2)) == 1, driver, log)
    (trial,) = [
        each
        for each in driver.children(recursive=True)
        if "ImplicitFunc" in " ".join(each.cmdline())
    ]
    trial.kill()
    assert driver.wait(600) == 0, log.read_text()
    output = log.read_text()
    assert output.startswith("Sweep sweep: found 1 of 3 trials ended (1 finished); 1 resume"), (
        output
    )
    assert [each.state for each in read_records(sweep)] == ["finished"] * 3
    assert results.stat().st_mtime_ns == before
    assert [num_starts(sweep, number) for number in range(3)] == [1, 2, 2]
    for number in range(3):
        assert learned(sweep, number) == ["plaza", "station"], "a learned domain was repeated"
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep}/study.db")
    assert [each.state.name for each in study.trials] == ["COMPLETE"] * 3
    for record in read_records(sweep):
        intermediate = {
            each.learned_domains: each.validation["seen_mAP"] for each in record.reports
        }
        assert study.trials[record.number].intermediate_values.items() <= intermediate.items()
    _, left = psutil.wait_procs(family, timeout=150)
    assert not left, "processes outlive their driver"


def test_a_sweep_that_cannot_start_prints_the_reason(
    arguments: Arguments, run_environment: dict[str, str], tmp_path: Path
) -> None:
    cpus = len(os.sched_getaffinity(0))
    study = tmp_path / "study.db"
    cases = {
        f"at most --concurrent {cpus} fits": [f"--concurrent={cpus + 1}", "--trials=99"],
        "is not writable (database is locked)": [f"--study=sqlite:///{study}"],
    }
    with sqlite3.connect(study, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        for expected, options in cases.items():
            command = [sys.executable, str(Path(lifelong.__file__)), *arguments(STABLE, *options)]
            done = subprocess.run(
                command, env=run_environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 2, done.stdout + done.stderr
            assert expected in done.stderr
            assert not (tmp_path / "sweep" / "sweep.json").exists()
