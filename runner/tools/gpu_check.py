"""Checks this project on a GPU: `python -m runner.tools.gpu_check`, or `make gpu-check`.

Runs the tests marked `gpu` and `python -m runner.bench --gpu`, within ten minutes on one GPU. Needs
neither Ray, MLflow nor open_clip. Without a GPU, prints what it would run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from runner.bench.gpu import ROWS, backbone_of_step

ROOT = Path(__file__).parents[2]
TEST_TIMEOUT_S = 240
BENCH_BUDGET_S = 240


def gpu_test_files() -> list[str]:
    """Returns the test files that hold tests marked `gpu`; other files may import Ray."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [file for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]
    return [str(file.relative_to(ROOT)) for file in marked]


def commands(output: Path) -> list[tuple[list[str], int]]:
    """Returns both commands and their time limits in seconds."""
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", *gpu_test_files()]
    bench = [sys.executable, "-m", "runner.bench", "--gpu", "--output", str(output)]
    budget = ["--budget-s", str(BENCH_BUDGET_S)]
    return [(tests, TEST_TIMEOUT_S), ([*bench, *budget], 600 - TEST_TIMEOUT_S)]


def main() -> int:
    """Runs both commands; returns 1 if one fails or exceeds its time, else 0."""
    planned = commands(Path("gpu-bench.json"))
    if not torch.cuda.is_available():
        print("No CUDA device. On a machine with one, this runs:")
        for command, limit_s in planned:
            print(f"  {' '.join(command)}  (at most {limit_s} s)")
        print(f"Rows of the benchmark ({backbone_of_step()}):")
        for row in ROWS:
            print(f"  {row.name}: {row.description}")
        return 0
    status = 0
    for command, limit_s in planned:
        try:
            status |= int(bool(subprocess.run(command, cwd=ROOT, timeout=limit_s).returncode))
        except subprocess.TimeoutExpired:
            print(f"stopped after {limit_s} s: {' '.join(command)}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
