"""Runs killed with SIGKILL in domain 2 have the scores of an uninterrupted run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.tracking.event_log import read_events

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]
StartDriver = Callable[..., Any]

pytestmark = pytest.mark.slow

OVERRIDES = (
    "benchmark.synthetic.num_seen_domains=3",
    "learner.icar.epochs=8",
    "learner.interpolation.mode=adaptive",
    "learner.alignment=[affinity,prototype_relation]",
)
ON_RAY = (*OVERRIDES, "cluster.num_workers=1")
WITHIN_DOMAIN = {"event": "iteration", "domain_index": 1, "stage": "icar", "epoch": 2}


@pytest.fixture(scope="module")
def uninterrupted(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The same run in one process (bit-equal to Ray, see test_loop.py)."""
    return run_experiment(
        tiny_config(tmp_path_factory.mktemp("uninterrupted"), "vladr", *OVERRIDES)
    )


def count(folder: Path, kind: str) -> int:
    events = read_events(folder / "events.jsonl").events
    return sum(event["event"] == kind for event in events)


def test_a_killed_driver_resumes_with_the_same_command(
    uninterrupted: RunResult, start_driver: StartDriver, tmp_path: Path, numbers_of: Numbers
) -> None:
    driver = start_driver(tmp_path, "vladr", *ON_RAY)
    driver.wait_for_event(**WITHIN_DOMAIN)
    family = driver.family()
    driver.process.kill()
    driver.process.wait()
    folder = tmp_path / uninterrupted.folder.name
    assert not (folder / "results.json").exists()
    assert count(folder, "domain_finished") == 1
    start_driver(tmp_path, "vladr", *ON_RAY).finish()
    results = json.loads((folder / "results.json").read_text())
    assert numbers_of(results) == numbers_of(uninterrupted.results)
    assert results["num_starts"] == count(folder, "run") == 2
    assert count(folder, "domain_finished") == 3
    # Ray agents check their node every few seconds and then retry a report for a minute.
    _, alive = psutil.wait_procs(family, timeout=150)
    assert not alive, "processes outlive their driver"


def test_a_killed_worker_is_replaced(
    uninterrupted: RunResult, start_driver: StartDriver, tmp_path: Path, numbers_of: Numbers
) -> None:
    driver = start_driver(tmp_path, "vladr", *ON_RAY)
    driver.wait_for_event(**WITHIN_DOMAIN)
    (worker,) = [each for each in driver.family() if "TrainWorker" in " ".join(each.cmdline())]
    worker.kill()
    driver.finish()
    folder = tmp_path / uninterrupted.folder.name
    results = json.loads((folder / "results.json").read_text())
    assert numbers_of(results) == numbers_of(uninterrupted.results)
    assert results["num_starts"] == count(folder, "run") == 1
    assert count(folder, "plan") == 2, "no worker was replaced"
