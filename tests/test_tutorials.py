"""The Python code of the README and of the tutorials runs as it is printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import models.learners
import tasks.datasets
from runner import experiment
from runner.config import run_config

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    *("backbone.weights=random", "data.persons_per_batch=4", "data.images_per_person=2"),
    *("benchmark.num_validation_identities=2", "tracking.uri=null", "learner.epochs=1"),
    *("cluster.num_workers=0",),
)
"""Overrides that shrink a run to seconds."""
SMALL_SYNTHETIC = tuple(
    f"benchmark.synthetic.{key}={value}"
    for key, value in {
        "num_seen_domains": 2,
        "num_unseen_domains": 1,
        "num_train_identities": 10,
        "num_unseen_validation_identities": 2,
        "num_test_identities": 6,
        "num_cameras": 2,
        "supersampling": 1,
    }.items()
)


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Executes the blocks of a page in order; a block that names its file is written there."""
    before = set(sys.modules)
    for package in (models.learners, tasks.datasets):
        folder = tmp_path / package.__name__.replace(".", "/")
        folder.mkdir(parents=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)
    original = run_config.load_config

    def run(page: Path, *overrides: str) -> dict[str, object]:
        def load_small(preset: str, given: Sequence[str] = ()) -> run_config.RunConfig:
            return original(preset, [*given, *SMALL, *overrides])

        monkeypatch.setattr(run_config, "load_config", load_small)
        namespace: dict[str, object] = {"__name__": "tutorial"}
        for block in code_blocks(page):
            if file := re.match(r"# (\S+\.py)\n", block):
                (tmp_path / file[1]).write_text(block)
            else:
                exec(compile(block, str(page), "exec"), namespace)
        return namespace

    yield run
    for name in set(sys.modules) - before:
        if name.startswith(("models.learners.", "tasks.datasets.")):
            del sys.modules[name]


def test_a_new_learner(run_page, capsys):
    run_page(ROOT / "docs" / "tutorials" / "new_learner.md", *SMALL_SYNTHETIC)
    assert "seen_mAP" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/first_run.md"])
def test_a_run_from_python(run_page, capsys, page):
    run_page(ROOT / page, *SMALL_SYNTHETIC)
    assert "plaza" in capsys.readouterr().out


def test_own_data(run_page, capsys):
    run_page(ROOT / "docs" / "tutorials" / "own_data.md")
    assert "'seen': ['shop']" in capsys.readouterr().out
