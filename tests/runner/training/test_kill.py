"""`kill -9` in the middle of domain 2: the scores are those of a run that nobody disturbed."""

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
IN_MID_DOMAIN = {"event": "iteration", "domain_index": 1, "stage": "icar", "epoch": 2}


@pytest.fixture(scope="module")
def undisturbed(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The same run in one process, from beginning to end (bit-equal, as test_loop.py shows)."""
    return run_experiment(tiny_config(tmp_path_factory.mktemp("undisturbed"), "vladr", *OVERRIDES))


def count(folder: Path, kind: str) -> int:
    events = read_events(folder / "events.jsonl").events
    return sum(event["event"] == kind for event in events)


def test_a_killed_driver_goes_on_at_the_same_command(
    undisturbed: RunResult, start_driver: StartDriver, tmp_path: Path, numbers_of: Numbers
) -> None:
    driver = start_driver(tmp_path, "vladr", *ON_RAY)
    driver.wait_for_event(**IN_MID_DOMAIN)
    family = driver.family()
    driver.process.kill()
    driver.process.wait()
    folder = tmp_path / undisturbed.folder.name
    assert not (folder / "results.json").exists()
    assert count(folder, "domain_finished") == 1
    start_driver(tmp_path, "vladr", *ON_RAY).finish()
    results = json.loads((folder / "results.json").read_text())
    assert numbers_of(results) == numbers_of(undisturbed.results)
    assert results["num_starts"] == count(folder, "run") == 2
    assert count(folder, "domain_finished") == 3
    # Ray's agents look for their node every few seconds, and report its end to nobody for a minute.
    _, left = psutil.wait_procs(family, timeout=150)
    assert not left, "processes outlive their driver"


def test_a_killed_worker_is_replaced(
    undisturbed: RunResult, start_driver: StartDriver, tmp_path: Path, numbers_of: Numbers
) -> None:
    driver = start_driver(tmp_path, "vladr", *ON_RAY)
    driver.wait_for_event(**IN_MID_DOMAIN)
    (worker,) = [each for each in driver.family() if "TrainWorker" in " ".join(each.cmdline())]
    worker.kill()
    driver.finish()
    folder = tmp_path / undisturbed.folder.name
    results = json.loads((folder / "results.json").read_text())
    assert numbers_of(results) == numbers_of(undisturbed.results)
    assert results["num_starts"] == count(folder, "run") == 1
    assert count(folder, "plan") == 2, "no worker was replaced"
