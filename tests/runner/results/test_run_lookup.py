"""Finding runs by the beginning of a name or `latest`, and the list of runs."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.run_config import load_config, to_yaml
from runner.lifelong import main
from runner.results.run_list import format_age
from runner.results.run_lookup import find_run

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a run folder with a configuration and one event."""

    def write(name: str, *overrides: str, event: str = "iteration", time: float = 0.0) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(load_config("demo-vladr", overrides)))
        (folder / "events.jsonl").write_text(json.dumps({"event": event, "time": time}) + "\n")
        return folder

    return write


def test_a_beginning_of_one_name_is_enough(make: Make, tmp_path: Path) -> None:
    first, second = make("demo-vladr-seed0-aa"), make("demo-vladr-seed1-bb")
    root = str(tmp_path / "runs")
    assert find_run("demo-vladr-seed0", root) == first
    assert find_run("demo-vladr-seed1-bb", root) == second
    assert find_run(str(second)) == second


def test_a_whole_name_wins_over_longer_names(make: Make, tmp_path: Path) -> None:
    run = make("run")
    make("run-2")
    assert find_run("run", str(tmp_path / "runs")) == run


def test_several_runs_are_listed(make: Make, tmp_path: Path) -> None:
    for number in range(7):
        make(f"demo-{number}")
    message = "found 7 in .*: demo-0, demo-1, demo-2, demo-3, demo-4 and 2 more; give more"
    with pytest.raises(FileNotFoundError, match=message):
        find_run("demo", str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("vladr", "similar names: demo-vladr-seed0"),
        ("demo-vlard-seed0", "did you mean demo-vladr-seed0"),
        ("", "found no run at"),
    ],
)
def test_a_wrong_name_lists_candidates(
    make: Make, tmp_path: Path, wrong: str, message: str
) -> None:
    make("demo-vladr-seed0")
    with pytest.raises(FileNotFoundError, match=message):
        find_run(wrong, str(tmp_path / "runs"))


def test_latest_follows_events_not_file_times(make: Make, tmp_path: Path) -> None:
    newer, older = make("newer", time=200.0), make("older", time=100.0)
    copy = shutil.copytree(tmp_path / "runs", tmp_path / "copy", copy_function=shutil.copyfile)
    (older / "config.yaml").touch()
    assert find_run("latest", str(tmp_path / "runs")) == newer
    assert find_run("latest", str(copy)) == copy / "newer"


def test_list_shows_status_and_changed_settings(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = make("done", "seed=3", time=4.0)
    summary = {"seen_mAP": 54.44, "unseen_mAP": None}
    (finished / "results.json").write_text(json.dumps({"scores": {}, "summary": summary}))
    make("broken", event="failed", time=3.0)
    make("halted", "learner.interpolation.mode=fixed", event="stopped", time=2.0)
    make("gone", time=1.0)
    (make("unreadable", time=0.5) / "config.yaml").write_text("seed: -1")
    running = make("busy", time=5.0)
    with (running / ".owner").open("a") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert main(["list", "--runs", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:7]] == [
        ["busy", "running"], ["done", "finished"], ["broken", "failed"],
        ["halted", "stopped"], ["gone", "killed"], ["unreadable", "damaged"],
    ]  # fmt: skip
    assert lines[2].split()[2:7] == ["vladr", "synthetic", "3", "54.4", "·"]
    assert "halted\n  learner.interpolation.mode=fixed" in text
    assert "unreadable\n  seed:" in text


def test_list_as_json_and_by_beginning(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("one-a", "data.images_per_person=2", time=9.0)
    make("two")
    assert main(["list", "one", "--json", "--runs", str(tmp_path / "runs")]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "one-a"
    assert entry["changed_settings"] == {"data.images_per_person": 2}
    assert entry["last_activity"] == 9.0
    assert entry["seen_mAP"] is None


def test_names_in_the_list_are_never_cut(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "n" * 120
    make(name)
    assert main(["list", "--runs", str(tmp_path / "runs")]) == 0
    assert name in capsys.readouterr().out


def test_list_of_a_missing_or_empty_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--runs", str(tmp_path)]) == 0
    assert "holds no run" in capsys.readouterr().out
    assert main(["list", "--runs", str(tmp_path / "none")]) == 2
    assert "set --runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59, "59 s"), (90, "2 min"), (3_600 * 3, "3 h"), (86_400 * 5, "5 d")],
)
def test_ages(seconds: float, text: str) -> None:
    assert format_age(seconds) == text
