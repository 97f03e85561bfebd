"""A folder with a small Market-1501, and the doctor looking at it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.lifelong import main
from tasks.datasets import dukemtmc, market1501
from tests.runner.doctor.doctor_data import MARKET, RunDoctor, counted, tree
from tests.tasks.datasets.miniatures.market1501 import build_market_layout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def market(root: Path) -> Path:
    build_market_layout(root / MARKET)
    return root / MARKET


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The literature says of Market-1501 and DukeMTMC-reID what is in their miniature."""
    for reader in (market1501, dukemtmc):
        expected = counted((12, 4, 3), (4, 2, 2), (5, 3, 3))
        (layout,) = reader.FACTS.layouts
        layouts = (dataclasses.replace(layout, expected=expected),)
        monkeypatch.setattr(reader, "FACTS", dataclasses.replace(reader.FACTS, layouts=layouts))


@pytest.fixture
def run_doctor(root: Path, capsys: pytest.CaptureFixture[str]) -> RunDoctor:
    """Runs `doctor --json` and returns what it printed."""

    def run(*arguments: str, at: Path = root) -> dict[str, Any]:
        before = tree(at)
        assert main(["doctor", "--json", "--data", str(at), *arguments]) == 0
        assert tree(at) == before, "wrote into the data"
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def shown(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `doctor` and returns what it printed."""

    def run(*arguments: str) -> str:
        assert main(["doctor", "--data", str(root), *arguments]) == 0
        return capsys.readouterr().out

    return run
