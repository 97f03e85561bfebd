"""Damaged files of a run folder are repaired, or named in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import experiment
from runner.config.json_files import DamagedFileError
from runner.config.run_config import RunConfig, to_yaml
from runner.experiment import run_experiment
from runner.results.finished_runs import read_finished
from runner.tracking.event_log import read_events
from runner.training.checkpoints import Checkpoint, CheckpointStore

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Path:
    """Storage of a finished run."""
    storage = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiment, "write_figures", lambda *_: None)
        run_experiment(tiny_config(storage))
    return storage


@pytest.fixture
def copied(
    finished: Path, tmp_path: Path, tiny_config: MakeConfig, no_figures: None
) -> tuple[RunConfig, Path]:
    """Configuration and folder of a copy of the finished run."""
    shutil.copytree(finished, tmp_path / "runs")
    config = tiny_config(tmp_path / "runs")
    return config, tmp_path / "runs" / config.run_name


def cut(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def logged(folder: Path) -> str:
    events = read_events(folder / "events.jsonl").events
    return "\n".join(str(each["message"]) for each in events if each["event"] == "log")


def num_iterations_logged(folder: Path) -> int:
    events = read_events(folder / "events.jsonl").events
    return sum(each["event"] == "iteration" for each in events)


@pytest.mark.parametrize("content", [b"", b'{"learner": "fine', b"\0" * 100, b"[]"])
def test_damaged_results_are_made_again_without_training(
    copied: tuple[RunConfig, Path], content: bytes, numbers_of: Numbers
) -> None:
    config, folder = copied
    before = json.loads((folder / "results.json").read_text())
    num_iterations = num_iterations_logged(folder)
    (folder / "results.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"results\.json is damaged .*repeat the command"):
        read_finished(str(folder))
    run = run_experiment(config)
    assert not run.was_finished
    assert numbers_of(run.results) == numbers_of(before)
    assert numbers_of(json.loads((folder / "results.json").read_text())) == numbers_of(before)
    assert num_iterations_logged(folder) == num_iterations, "it was trained again"
    assert "results.json is damaged and is made again" in logged(folder)


def test_damaged_results_without_checkpoint_are_refused(copied: tuple[RunConfig, Path]) -> None:
    config, folder = copied
    shutil.rmtree(folder / "checkpoints")
    cut(folder / "results.json")
    with pytest.raises(DamagedFileError, match=r"results\.json .*no checkpoint.*--fresh"):
        run_experiment(config)


def test_damaged_attempt_file_is_repaired_from_the_event_log(
    copied: tuple[RunConfig, Path],
) -> None:
    config, folder = copied
    (folder / "results.json").unlink()
    (folder / "attempt.json").write_text("{")
    assert run_experiment(config).results["num_starts"] == 2
    assert json.loads((folder / "attempt.json").read_text()) == {"attempt": 2}
    assert "attempt.json was damaged" in logged(folder)


def test_damaged_lock_is_named(copied: tuple[RunConfig, Path]) -> None:
    config, folder = copied
    cut(folder / "protocol.lock.json")
    for read in (lambda: run_experiment(config), lambda: read_finished(str(folder))):
        with pytest.raises(DamagedFileError, match=r"protocol\.lock\.json is damaged .*delete it"):
            read()
    (folder / "protocol.lock.json").unlink()
    assert run_experiment(config).was_finished


@pytest.mark.parametrize("line", ['{"path": "x', "garbage", '{"no": "path"}', "\0\0\0"])
def test_damaged_lines_of_unreadable_images_are_dropped(
    copied: tuple[RunConfig, Path], line: str
) -> None:
    config, folder = copied
    (folder / "results.json").unlink()
    valid = {"path": "/a.jpg", "reason": "broken", "domain": "plaza", "split": "train"}
    (folder / "quarantine.jsonl").write_text(f"{json.dumps(valid)}\n{line}\n{json.dumps(valid)}\n")
    run_experiment(config)
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(each) for each in lines] == [valid, valid]


def test_damaged_events_are_skipped(copied: tuple[RunConfig, Path]) -> None:
    config, folder = copied
    (folder / "results.json").unlink()
    file = folder / "events.jsonl"
    file.write_bytes(file.read_bytes()[:-40] + b"\0" * 4096)
    num_events = len(read_events(file).events)
    run_experiment(config)
    events, _, num_malformed = read_events(file)
    assert num_malformed == 1
    assert len(events) > num_events
    assert events[-1]["event"] == "finished"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_truncated_configuration_is_written_again(
    copied: tuple[RunConfig, Path], share: float
) -> None:
    config, folder = copied
    cut(folder / "config.yaml", share)
    assert run_experiment(config).was_finished
    assert (folder / "config.yaml").read_text() == to_yaml(config)


def test_truncated_configuration_without_checkpoint_is_named(
    copied: tuple[RunConfig, Path],
) -> None:
    config, folder = copied
    shutil.rmtree(folder / "checkpoints")
    cut(folder / "config.yaml", 0.3)
    with pytest.raises(ValueError, match=r"config\.yaml|cannot read") as refused:
        run_experiment(config)
    assert "another configuration" not in str(refused.value)


def test_truncated_configuration_of_another_run_is_not_overwritten(
    copied: tuple[RunConfig, Path], tiny_config: MakeConfig
) -> None:
    config, folder = copied
    cut(folder / "config.yaml", 0.3)
    content = (folder / "config.yaml").read_text()
    other = tiny_config(folder.parent, "finetune", "seed=9", f"run.name={folder.name}")
    with pytest.raises(ValueError, match=r"damaged|cannot read"):
        run_experiment(other)
    assert (folder / "config.yaml").read_text() == content
    assert config.run_name == folder.name


class KilledError(Exception):
    """Simulates the end of the process."""


@pytest.mark.parametrize("num_saved", [2, 4])
def test_a_damaged_checkpoint_costs_time_but_no_digit(
    copied: tuple[RunConfig, Path],
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    num_saved: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = json.loads((copied[1] / "results.json").read_text())
    config = tiny_config(tmp_path / "killed")
    folder = tmp_path / "killed" / config.run_name
    save, num_calls = CheckpointStore.save, 0

    def save_or_die(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        nonlocal num_calls
        save(self, checkpoint)
        num_calls += 1
        if num_calls == num_saved:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "save", save_or_die)
        with pytest.raises(KilledError):
            run_experiment(config)
    before, newest = sorted((folder / "checkpoints").glob("position-*"))
    cut(newest / "tensors.safetensors")
    results = run_experiment(config).results
    assert numbers_of(results) == numbers_of(expected)
    assert f"{newest} is damaged (the content of tensors.safetensors" in logged(folder)
    assert f"continuing from {before.name}" in logged(folder)
