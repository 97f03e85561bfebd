"""Failures of Ray are explained in one line each; starts that failed are tried again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayActorError, RayTaskError

from runner.config.run_config import RunConfig
from runner.on_ray import cluster, failures
from runner.on_ray.failures import cluster_message, failure_message, reason
from runner.results.run_folder import RunStorage

MakeConfig = Callable[..., RunConfig]

START_FAILED = ray.train.ControllerError(ActorDiedError())
WORKERS_FAILED = ray.train.WorkerGroupError(
    "worker 1\nTraceback (most recent call last):\n  many lines",
    {1: MemoryError("expected 3 GB\nsecond line"), 2: RayActorError()},
)


def test_message_of_worker_failures_is_short() -> None:
    message = failure_message(WORKERS_FAILED, 3)
    assert message.startswith("cluster.max_failures: expected at most 3 worker failures, got 4")
    assert "worker 1: MemoryError: expected 3 GB; worker 2: RayActorError: " in message
    assert "Traceback" not in message
    assert "\n" not in message


def test_message_of_a_failed_start_does_not_blame_max_failures() -> None:
    message = failure_message(START_FAILED, 3)
    assert "could not start or control the workers: ActorDiedError" in message
    assert "max_failures" not in message


def test_a_lost_raylet_is_named() -> None:
    assert "on this machine died: LocalRayletDiedError" in cluster_message(
        LocalRayletDiedError(), "local"
    )
    assert "at head:6379 died" in cluster_message(LocalRayletDiedError(), "head:6379")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(""), "ValueError: "),
        (
            RayTaskError("f", "Traceback (most recent call last):\n  x\nKeyError: 3", KeyError(3)),
            "KeyError: 3",
        ),
        (RuntimeError("x" * 1000), "..."),
    ],
)
def test_reason_is_one_line(error: Exception, expected: str) -> None:
    text = reason(error)
    assert expected in text
    assert "\n" not in text
    assert len(text) <= 300


@pytest.fixture
def fit(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[Any]], tuple[Any, list[str]]]:
    """Fits with trainers that raise or return the given outcomes in turn; returns their names."""

    def run(outcomes: list[Any]) -> tuple[Any, list[str]]:
        names: list[str] = []

        class Trainer:
            def fit(self) -> Any:
                outcome = outcomes[len(names) - 1]
                if isinstance(outcome, SystemExit):  # as Ray Train's handler of SIGINT
                    signal.signal(signal.SIGINT, lambda *_: None)
                if isinstance(outcome, BaseException):
                    raise outcome
                return SimpleNamespace(return_value=outcome)

        def trainer(*arguments: Any) -> Trainer:
            names.append(arguments[-1])
            return Trainer()

        monkeypatch.setattr(cluster, "_trainer", trainer)
        monkeypatch.setattr(ray, "put", lambda value: value)
        monkeypatch.setattr(failures.ray, "is_initialized", lambda: True)
        config = tiny_config(tmp_path, "finetune", "cluster.max_failures=2")
        benchmark: Any = None
        return cluster._fit(config, benchmark, RunStorage(tmp_path), 7, 1.0, None), names

    return run


def test_a_worker_killed_during_the_start_is_tried_again(fit: Callable[..., Any]) -> None:
    assert fit([START_FAILED, START_FAILED, {"a": 1}]) == (
        {"a": 1},
        ["start-7", "start-7-1", "start-7-2"],
    )


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([START_FAILED] * 3, "could not start"),
        ([WORKERS_FAILED], "max_failures"),
        ([ray.train.ControllerError(ValueError("wrong"))], "ValueError: wrong"),
    ],
)
def test_other_failures_end_the_run(
    fit: Callable[..., Any], outcomes: list[Exception], expected: str
) -> None:
    with pytest.raises(RuntimeError, match=expected):
        fit([*outcomes, {"a": 1}])


def test_ctrl_c_interrupts_a_fit_as_a_run_without_ray(fit: Callable[..., Any]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit([SystemExit(1)])
    assert signal.getsignal(signal.SIGINT) is before
