"""Four small runs give the losses and scores that are stored beside this file, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LEARNERS = ("finetune", "vladr", "krkc", "bdam")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs as this code computes them, in a process whose kernels are fixed."""
    folder = tmp_path_factory.mktemp("golden")
    command = [sys.executable, str(HERE / "golden_runs.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_golden_run_is_reproduced_bit_for_bit(computed: Path, learner: str) -> None:
    stored, now = (
        json.loads((folder / f"{learner}.json").read_text(encoding="utf-8"))
        for folder in (HERE, computed)
    )
    for before, after in zip(stored["iterations"], now["iterations"], strict=True):
        assert before == after
    assert stored == now
