"""A table of overheads: `python -m runner.bench [--only NAME ...] [--repeats N] [--output FILE]`.

Writes JSON: for each measurement {"median", "values", "unit"}, the same for each of "ratios", and
"machine". Where something is aimed at, "aim" and "met" stand beside the median.
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

from runner.bench.measurements import Findings, Measurement
from runner.bench.workbench import Sizes, Workbench
from runner.results.run_folder import git_revision, write_atomically

BENCHES = (
    "training_loop",
    "startup",
    "domain_switch",
    "decoding",
    "evaluation",
    "ranking",
    "gallery_index",
    "doctor",
    "training_step",
    "tracking",
    "fusion",
    "sweep",
)
BUSY_LOAD = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen benches; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    facts = machine()
    if facts["load_average"] > BUSY_LOAD:
        console.print(f"The machine is busy (load {facts['load_average']:.1f}): wait, or mistrust.")
    sizes = Sizes.quick() if options.quick else Sizes()
    found = Findings(())
    with tempfile.TemporaryDirectory(prefix="lifelong-reid-bench-") as scratch:
        bench = Workbench(Path(scratch), options.repeats, sizes)
        for name in [name for name in BENCHES if name in (options.only or BENCHES)]:
            began = time.perf_counter()
            found += importlib.import_module(f"runner.bench.{name}").measure(bench)
            console.print(f"{name}: {time.perf_counter() - began:.0f} s")
            # After each: an error in a later one leaves the earlier ones' numbers.
            write_atomically(options.output, json.dumps(report(found, facts), indent=1))
    console.print(table(found))
    console.print(f"Written to {options.output}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measures what the runner costs.")
    parser.add_argument("--only", nargs="+", choices=BENCHES, help="run these benches alone")
    parser.add_argument("--repeats", type=_positive, default=3, help="of every measurement")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="JSON file")
    parser.add_argument(
        "--quick", action="store_true", help="only see that the benches work; numbers say nothing"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def report(found: Findings, facts: dict[str, Any]) -> dict[str, Any]:
    """What the JSON file holds."""
    return found.to_json() | {"machine": facts}


def table(found: Findings) -> Table:
    """Medians with their spread, ratios last, and the aims."""
    shown = Table(title="Overheads")
    shown.add_column("", no_wrap=True)
    shown.add_column("median", justify="right")
    shown.add_column("range", justify="right")
    shown.add_column("aim")
    _add_rows(shown, found.measurements)
    shown.add_section()
    _add_rows(shown, found.ratios)
    return shown


def _add_rows(shown: Table, measurements: Iterable[Measurement]) -> None:
    for each in measurements:
        aim = ""
        if each.aim is not None:
            aim = f"{each.aim} {'[green]met' if each.met else '[red]missed'}[/]"
        spread = f"{_number(min(each.values))} - {_number(max(each.values))}"
        median = f"{_number(each.median)} {each.unit}"
        shown.add_row(each.name, median, spread if len(each.values) > 1 else "", aim)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the numbers were measured on: CPUs this process may use, their kind, and versions."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "ray", "mlflow")}
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
