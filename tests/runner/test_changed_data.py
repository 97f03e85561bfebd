"""A run resumes only on the data on which it started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import experiment
from runner.config.run_config import RunConfig
from runner.experiment import run_experiment
from runner.results.finished_runs import group_runs, read_finished
from runner.tracking.event_log import read_events

MakeConfig = Callable[..., RunConfig]


class KilledError(Exception):
    """Simulates the end of the process."""


@pytest.fixture
def begun(
    tmp_path: Path, tiny_config: MakeConfig, people: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[RunConfig, Path, Path]:
    """Configuration and folder of a run that was killed after its start, and a copy of its data."""
    config = tiny_config(tmp_path / "runs", "finetune", "checkpoints.keep_domains=false")
    experiment.read_benchmark(config)  # generates the data of the session
    data = tmp_path / "people"
    shutil.copytree(people, data)
    config = tiny_config(tmp_path / "runs", "finetune", f"benchmark.root={data}")

    def killed(*_: object) -> Any:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "_compute", killed)
        with pytest.raises(KilledError):
            run_experiment(config)
    return config, tmp_path / "runs" / config.run_name, data


def images(data: Path, folder: str) -> list[Path]:
    return sorted(path for path in data.rglob("*.jpg") if folder in path.as_posix())


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    "folder", ["plaza/bounding_box_train", "station/query", "mall/bounding_box_test"]
)
def test_images_replaced_under_the_same_names_are_refused(
    begun: tuple[RunConfig, Path, Path], folder: str
) -> None:
    config, _, data = begun
    first, second, *_ = images(data, folder)
    swap(first, second)
    with pytest.raises(ValueError, match="data no longer match") as refused:
        run_experiment(config)
    message = str(refused.value)
    assert "other contents under the same names" in message
    assert f"changed files: {folder.split('/')[0]}/" in message
    assert first.name in message
    assert second.name in message
    assert "restore the data" in message
    swap(first, second)


def test_size_of_a_changed_file_is_named(begun: tuple[RunConfig, Path, Path]) -> None:
    config, _, data = begun
    first = images(data, "plaza/bounding_box_train")[0]
    size = first.stat().st_size
    first.write_bytes(first.read_bytes() + b"0123456789")
    with pytest.raises(ValueError, match=rf"{size:,} bytes then, {size + 10:,} bytes now"):
        run_experiment(config)


def test_lock_of_an_older_version_resumes_with_a_note(
    begun: tuple[RunConfig, Path, Path], no_figures: None
) -> None:
    config, folder, data = begun
    lock = json.loads((folder / "protocol.lock.json").read_text())
    for domain in lock["domains"].values():
        del domain["contents"]
    (folder / "protocol.lock.json").write_text(json.dumps(lock))
    (folder / "data-files.jsonl").unlink()
    run_experiment(config)
    events = read_events(folder / "events.jsonl").events
    notes = [each["message"] for each in events if each["event"] == "log"]
    assert sum("did not record the contents" in note for note in notes) == 1
    lock_now = json.loads((folder / "protocol.lock.json").read_text())
    assert all("contents" in domain for domain in lock_now["domains"].values())

    older = folder.parent / "older"
    shutil.copytree(folder, older)
    (older / "protocol.lock.json").write_text(json.dumps(lock))
    (older / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("seed: 0\n", "seed: 1\n", 1)
    )
    runs = [read_finished(str(each)) for each in (folder, older)]
    assert len(group_runs(runs)) == len({run.config.seed for run in runs}) - 1 == 1

    first, second, *_ = images(data, "plaza/bounding_box_train")
    swap(first, second)
    with pytest.raises(ValueError, match="changed files: plaza/"):
        run_experiment(config)
