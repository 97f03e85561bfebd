"""Benchmark and check of a GPU machine, tried on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runner.bench import __main__ as bench
from runner.bench import gpu
from runner.tools import gpu_check

ROOT = Path(__file__).parents[3]
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow", "open_clip"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocked())
"""
"""Makes a process one of a machine without these packages."""


def run_blocked(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + program],
        cwd=ROOT, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_a_gpu_the_rows_are_listed(tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert bench.main(["--gpu", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "No CUDA device" in shown
    assert all(row.name in shown for row in gpu.ROWS)
    assert not output.exists()


def test_the_gpu_tests_need_neither_ray_mlflow_nor_open_clip():
    files = gpu_check.gpu_test_files()
    assert "tests/tasks/retrieval/test_ranking.py" in files
    arguments = ["-m", "gpu", "--collect-only", "-p", "no:cacheprovider", *files]
    shown = run_blocked(f"import pytest; sys.exit(pytest.main({arguments!r}))")
    for name in ("test_cuda_agrees_with_cpu", "test_the_kernels_of_mamba", "test_a_demo_run"):
        assert name in shown


def test_the_check_lists_its_commands_and_ends_without_a_gpu():
    shown = run_blocked("from runner.tools.gpu_check import main; sys.exit(main())")
    assert "-m pytest -m gpu" in shown
    assert "-m runner.bench --gpu" in shown
    assert "open_clip is not installed" in shown


@pytest.mark.slow
def test_the_rows_measure_without_open_clip():
    rows = ["gpu.step.bfloat16", "gpu.views", "gpu.ranking"]
    program = f"""
import torch
from runner.bench import gpu
rows = [row for row in gpu.ROWS if row.name in {rows!r}]
parts = gpu.measure_rows(rows, torch.device("cpu"), gpu.GpuSizes.quick(), 1, 600, print)
for part in parts:
    for measurement in part.measurements:
        assert measurement.unit == "MB" or measurement.median > 0
        print(measurement.name)
"""
    shown = run_blocked(program)
    assert "gpu.step.bfloat16.speed" in shown
    assert "gpu.views.strong_on_cpu.speed" in shown
    assert "gpu.ranking.time" in shown


def test_rows_that_begin_too_late_are_skipped():
    rows = [gpu.Row("one", "", lambda *_: []), gpu.Row("two", "", lambda *_: [])]
    messages = list[str]()
    arguments = (torch.device("cpu"), gpu.GpuSizes.quick(), 1, -1.0, messages.append)
    assert list(gpu.measure_rows(rows, *arguments)) == []
    assert [message.partition(",")[0] for message in messages] == ["one: skipped", "two: skipped"]


def test_both_commands_end_within_ten_minutes(tmp_path):
    (_, tests_s), (command, bench_s) = gpu_check.commands(tmp_path / "bench.json")
    assert tests_s + bench_s <= 600
    assert int(command[command.index("--budget-s") + 1]) < bench_s
