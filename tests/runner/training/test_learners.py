"""Runs of all learners; new files in models/learners are discovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.analysis.trained_run import load_run
from runner.config.run_config import RunConfig, learner_module, learner_names
from runner.experiment import run_experiment
from runner.tracking.event_log import read_events
from runner.training import loop
from runner.training.checkpoints import CheckpointStore

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]

# test_loop.py covers these two.
OTHERS = [name for name in learner_names() if name not in ("finetune", "vladr")]


class ProcessKilledError(Exception):
    """Simulates the end of the process."""


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("learner", OTHERS)
def test_a_resumed_run_equals_an_uninterrupted_run(
    learner: str,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run_experiment(tiny_config(tmp_path / "whole", learner)).results
    config = tiny_config(tmp_path / "resumed", learner)
    saved = 0

    class Failing(CheckpointStore):
        """Fails after every third checkpoint."""

        def save(self, checkpoint):
            nonlocal saved
            path = super().save(checkpoint)
            saved += 1
            if saved % 3 == 0:
                raise ProcessKilledError
            return path

    monkeypatch.setattr("runner.training.worker.CheckpointStore", Failing)
    for _ in range(20):
        try:
            resumed = run_experiment(config).results
            break
        except ProcessKilledError:
            continue
    assert numbers_of(resumed) == numbers_of(whole)
    course = learner_module(learner).Method.course
    assert saved >= 3 or course == "none"
    rows = whole["scores"]["mAP"]
    assert all(score is not None for score in rows[0] + rows[-1])
    between = [score for row in rows[1:-1] for score in row]
    assert all((score is None) == (course != "sequential") for score in between)
    assert (rows[0] == rows[-1]) == (course == "none")
    assert load_run(str(tmp_path / "resumed" / config.run_name), "runs").learner is not None


def test_joint_training_uses_all_identities(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    original = loop.training_batches

    def record(*arguments: Any) -> Any:
        for batch in original(*arguments):
            seen.update(batch.person_ids.tolist())
            yield batch

    monkeypatch.setattr(loop, "training_batches", record)
    result = run_experiment(tiny_config(tmp_path, "joint"))
    # Two domains with eight training identities each (two of ten are for validation).
    assert seen == set(range(16))
    assert result.results["summary"]["forgetting_mAP"] is None
    assert result.results["summary"]["seen_mAP"] is not None
    assert (result.folder / "matrix.png").is_file()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("learner", ["dask", "lstkc"])
def test_the_plan_includes_a_longer_first_domain(
    learner: str, tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the plan of a start that resumes in the second domain."""
    run_domain = loop.LifelongLoop._learn_domain

    def fail_once(self: loop.LifelongLoop, start: Any, state: Any) -> None:
        if start.domain == 1 and not Path(tmp_path, "failed").exists():
            Path(tmp_path, "failed").touch()
            raise ProcessKilledError
        run_domain(self, start, state)

    monkeypatch.setattr(loop.LifelongLoop, "_learn_domain", fail_once)
    config = tiny_config(tmp_path, learner, "learner.epochs=1", "learner.first_epochs=3")
    with pytest.raises(ProcessKilledError):
        run_experiment(config)
    result = run_experiment(config)
    events = read_events(result.folder / "events.jsonl").events
    totals = [event["total_iterations"] for event in events if event["event"] == "plan"]
    assert totals == [result.results["num_iterations"]] * 2
