"""Runs the benchmarks: `python -m runner.bench [--only NAME ...] [--repeats N] [--output FILE]`.

`python -m runner.bench --gpu` measures on one GPU instead, and needs neither Ray nor MLflow.

Prints a table and writes JSON: {"median", "values", "unit"} for each measurement, the same for each
of "ratios", and "machine". Measurements with a target also have "aim" and "met".
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from runner.bench import gpu
from runner.bench.measurements import BenchResult, Measurement
from runner.bench.workbench import Sizes, Workbench
from runner.results.run_folder import git_revision, write_atomically

BENCHES = (
    "training_loop",
    "startup",
    "domain_switch",
    "ranking",
    "doctor",
    "views",
    "training_step",
    "tracking",
    "fusion",
    "sweep",
)
ENDURANCE = ("soak", "chaos")
"""Hours rather than minutes, so they run only when they are named."""
BUSY_LOAD = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the selected benchmarks; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    facts = machine()
    if facts["load_average"] > BUSY_LOAD:
        console.print(
            f"The machine is busy (load {facts['load_average']:.1f}); measurements are unreliable."
        )
    if options.gpu:
        return _measure_gpu(options, console, facts)
    sizes = Sizes.quick() if options.quick else Sizes()
    result = BenchResult(())
    with tempfile.TemporaryDirectory(prefix="lifelong-reid-bench-") as scratch:
        workbench = Workbench(Path(scratch), options.repeats, sizes)
        for name in [each for each in (*BENCHES, *ENDURANCE) if each in (options.only or BENCHES)]:
            start_s = time.perf_counter()
            result += importlib.import_module(f"runner.bench.{name}").measure(workbench)
            console.print(f"{name}: {time.perf_counter() - start_s:.0f} s")
            # Write after each benchmark, so that a later error does not lose the results.
            write_atomically(options.output, json.dumps(report(result, facts), indent=1))
    return _show(console, result, options.output)


def _measure_gpu(options: argparse.Namespace, console: Console, facts: dict[str, Any]) -> int:
    """Measures the rows of `runner.bench.gpu`, or lists them on a machine without a GPU."""
    if not torch.cuda.is_available():
        console.print(
            f"No CUDA device. On a machine with one, this measures ({gpu.backbone_of_step()}):"
        )
        for row in gpu.ROWS:
            console.print(f"  {row.name}: {row.description}")
        return 0
    sizes = gpu.GpuSizes.quick() if options.quick else gpu.GpuSizes()
    device, result = torch.device("cuda", 0), BenchResult(())
    facts |= {"gpu": torch.cuda.get_device_name(device), "backbone": gpu.backbone_of_step()}
    rows = gpu.measure_rows(
        gpu.ROWS, device, sizes, options.repeats, options.budget_s, console.print
    )
    for part in rows:
        result += part
        write_atomically(options.output, json.dumps(report(result, facts), indent=1))
    return _show(console, result, options.output)


def _show(console: Console, result: BenchResult, output: Path) -> int:
    console.print(table(result))
    console.print(f"Written to {output}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.bench", description="Measures the overhead of the runner."
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*BENCHES, *ENDURANCE),
        help=f"run only these benchmarks; {' and '.join(ENDURANCE)} run only if they are named",
    )
    parser.add_argument("--gpu", action="store_true", help="measure on one GPU only")
    parser.add_argument(
        "--budget-s",
        type=_positive,
        default=3600,
        help="--gpu: rows that would begin after this number of seconds are skipped",
    )
    parser.add_argument(
        "--repeats",
        type=_positive,
        default=3,
        help="repeats of each measurement, runs of soak, kills of chaos (default: 3)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("bench.json"), help="JSON file to write"
    )
    parser.add_argument(
        "--quick", action="store_true", help="use minimal sizes to check that the benchmarks work"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def report(result: BenchResult, facts: dict[str, Any]) -> dict[str, Any]:
    """Builds the content of the JSON file."""
    return result.to_json() | {"machine": facts}


def table(result: BenchResult) -> Table:
    """Builds a table of medians, ranges and targets; ratios come last."""
    table = Table(title="Overhead")
    table.add_column("measurement", no_wrap=True)
    table.add_column("median", justify="right")
    table.add_column("range", justify="right")
    table.add_column("target")
    _add_rows(table, result.measurements)
    table.add_section()
    _add_rows(table, result.ratios)
    return table


def _add_rows(table: Table, measurements: Iterable[Measurement]) -> None:
    for measurement in measurements:
        target = ""
        if measurement.target is not None:
            target = f"{measurement.target} {'[green]met' if measurement.met else '[red]missed'}[/]"
        values = measurement.values
        spread = f"{_format(min(values))} - {_format(max(values))}" if len(values) > 1 else ""
        median = f"{_format(measurement.median)} {measurement.unit}"
        table.add_row(measurement.name, median, spread, target)


def _format(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Describes the machine: CPUs available to this process, processor and package versions."""
    installed = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
    names = [name for name in ("torch", "ray", "mlflow") if name in installed]
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
        "git_revision": git_revision(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
