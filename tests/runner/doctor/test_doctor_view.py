"""Terminal output of `doctor`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from runner.doctor.examine import examine, examine_images
from runner.doctor.view import show
from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_names
from tests.runner.doctor.doctor_data import MARKET, damage
from tests.tasks.datasets.miniatures.market1501 import build_market_layout


def test_table_shows_differing_counts(market: Path, shown: Callable[..., str]) -> None:
    lines = shown().splitlines()
    assert lines[0] == f"Data sets under {market.parent}"
    (row,) = [line for line in lines if line.startswith("market1501 warning v15.09.15")]
    assert row.split()[3:] == ["12/4", "4/2", "5/3", "3/2/3"]
    (expected,) = [line for line in lines if line.strip().startswith("expected")]
    assert expected.split() == ["expected", "12,936/751", "3,368/750", "15,913/751", "6"]
    assert max(len(line) for line in lines if str(market.parent) not in line) <= 80
    assert "\nNot found: cuhk01, cuhk02, " in "\n".join(lines)
    assert lines[-1] == f"1 warning, {len(dataset_names()) - 1} missing"


def test_missing_requested_data_set_shows_expected_layout(
    root: Path, shown: Callable[..., str]
) -> None:
    text = " ".join(shown("--dataset", "viper", "market1501").split())
    assert "VIPeR: not found. Expected cam_a, cam_b under" in text
    assert "Not found:" not in text
    assert "Not found: viper" in " ".join(shown().replace(",", "\nNot found:").split())


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_paths_are_not_split(tmp_path: Path, width: int) -> None:
    root = tmp_path / "my data [of people]" / ("long-" * 20)
    build_market_layout(root / MARKET)
    damaged = damage(root / MARKET)
    reports = examine_images(examine(["market1501", "viper"], root, ReadOptions()))
    console = Console(file=io.StringIO(), width=width)
    show(console, reports, root, ["viper"])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for path in (root / MARKET, root / "viper" / "VIPeR", *damaged):
        assert str(path) in text
    words = [
        line
        for line in text.splitlines()
        if ("/" not in line and " unpack " in line) or "learners need" in line
    ]
    assert all(len(line) <= max(width, 40) for line in words)


def test_undecodable_file_name_is_shown(market: Path, shown: Callable[..., str]) -> None:
    odd = os.fsdecode(b"0001_c1s1_\xff_00.jpg")
    (market / "query" / odd).write_text("")
    assert r"0001_c1s1_\udcff_00.jpg" in shown("--deep", "--dataset", "market1501")
