"""SIGTERM: a checkpoint at the next iteration, status 143, and the same scores after resuming."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import lifelong
from runner.config.run_config import RunConfig
from runner.experiment import run_experiment
from runner.tracking.event_log import read_events
from runner.training import termination
from runner.training.step_logger import StepLogger
from runner.training.termination import (
    FileRequest,
    TerminatedError,
    on_sigterm,
    raise_terminated,
    stop_at_next_checkpoint,
    stop_workers,
)

MakeConfig = Callable[..., RunConfig]
MakeArguments = Callable[..., list[str]]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]


def send_at_iterations(
    patch: pytest.MonkeyPatch, *numbers: int, number_of_signal: int = signal.SIGTERM
) -> None:
    """Sends a signal to this process during the given iterations of the run, once each."""
    add, left = StepLogger.add, set(numbers)

    def add_and_send(self: StepLogger, iteration: int, *arguments: Any) -> None:
        add(self, iteration, *arguments)
        if iteration in left:
            left.remove(iteration)
            os.kill(os.getpid(), number_of_signal)

    patch.setattr(StepLogger, "add", add_and_send)


@pytest.mark.parametrize("learner", ["finetune", "vladr"])
def test_a_terminated_run_resumes_within_the_epoch_with_equal_scores(
    learner: str,
    tmp_path: Path,
    tiny_config: MakeConfig,
    no_figures: None,
    numbers_of: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run_experiment(tiny_config(tmp_path / "whole", learner)).results
    config = tiny_config(tmp_path / "stopped", learner)
    folder = tmp_path / "stopped" / config.run_name
    # The first iteration of an epoch, one within it, and the last of a domain.
    send_at_iterations(monkeypatch, 0, 4, expected["num_iterations"] // 2 - 1)
    names: list[str] = []
    for _ in range(3):
        with pytest.raises(TerminatedError):
            run_experiment(config)
        names.append(max(path.name for path in (folder / "checkpoints").glob("position-*")))
    assert names[0] == "position-000-00-0000-000001"
    results = run_experiment(config).results
    assert numbers_of(results) == numbers_of(expected)
    iterations = [
        event["iteration"]
        for event in read_events(folder / "events.jsonl").events
        if event["event"] == "iteration"
    ]
    assert iterations == list(range(expected["num_iterations"])), "an iteration was repeated"


@pytest.mark.parametrize(
    ("number", "status", "message", "reason"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM; everything", "SIGTERM"),
        (signal.SIGINT, 130, "stopped; everything", "Ctrl-C"),
    ],
)
def test_a_stopped_run_ends_with_its_status_and_the_command_to_repeat(
    number: int,
    status: int,
    message: str,
    reason: str,
    tmp_path: Path,
    tiny_arguments: MakeArguments,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = tmp_path / "with space"
    arguments = tiny_arguments(storage, "finetune")
    send_at_iterations(monkeypatch, 1, number_of_signal=number)
    assert lifelong.main(["run", "--fresh", *arguments]) == status
    captured = capsys.readouterr()
    shown = captured.err
    assert shown.startswith(message)
    assert "Traceback" not in shown
    assert "failed" not in captured.out + shown
    (folder,) = storage.iterdir()
    last = read_events(folder / "events.jsonl").events[-1]
    assert (last["event"], last["reason"]) == ("stopped", reason)
    command = shlex.split(shown.strip().splitlines()[-1])
    assert command[-len(arguments) - 1 :] == ["run", *arguments], "--fresh would start over"
    assert lifelong.main(command[command.index("run") :]) == 0
    (run,) = storage.iterdir()
    assert json.loads((run / "results.json").read_text())["num_starts"] == 2


def test_a_run_that_reaches_no_iteration_ends_after_the_grace_period() -> None:
    def evaluate() -> None:
        with stop_at_next_checkpoint(grace_s=0.2) as request:
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.is_set()
            time.sleep(30)

    start_s = time.monotonic()
    with pytest.raises(TerminatedError):
        evaluate()
    assert time.monotonic() - start_s < 10
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_second_signal_ends_at_once() -> None:
    def train() -> None:
        with stop_at_next_checkpoint(grace_s=60):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedError):
        train()


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with on_sigterm(raise_terminated), stop_at_next_checkpoint():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


def test_other_threads_install_no_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with on_sigterm(raise_terminated), stop_at_next_checkpoint() as request:
            seen.extend([signal.getsignal(signal.SIGTERM), request.is_set()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_the_driver_waits_for_the_checkpoint_of_rank_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread stands in for the worker process of rank 0."""
    monkeypatch.setattr(termination, "_POLL_S", 0.01)
    monkeypatch.setattr(termination, "GRACE_S", 0.01)
    file, saved = tmp_path / ".stop", threading.Event()
    file.touch()  # left by an earlier start

    def work() -> None:
        request = FileRequest(file)
        while not request.is_set():
            time.sleep(0.01)
        saved.set()
        with pytest.raises(TerminatedError):
            request.finish()

    thread = threading.Thread(target=work)

    def drive() -> None:
        with stop_workers(file, grace_s=30):
            assert not file.exists()
            thread.start()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    with pytest.raises(TerminatedError):
        drive()
    assert saved.is_set()
    assert not file.exists()
    thread.join()
