"""Write the images of a benchmark to a table."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from runner.commands._arguments import (
    add_config_arguments,
    add_output_arguments,
    benchmark_settings,
)
from runner.commands._output import Output

HELP = "write image paths, labels and texts of a benchmark to a CSV file"
EXAMPLE = "demo.csv --preset demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `write-table`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV file to create")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: benchmark.root)"
    )
    add_config_arguments(parser)
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Writes the table and prints how to use it.

    Raises:
        ValueError, OSError: The benchmark is invalid, or the file exists or cannot be written.
    """
    from runner.config.run_config import load_config
    from tasks.benchmarks import check_benchmark, read_domains
    from tasks.table_export import write_table

    config = load_config(options.preset, options.overrides)
    settings = benchmark_settings(config, options.data)
    check_benchmark(settings)
    seen, unseen = read_domains(settings)
    write_table([*seen, *unseen], options.file)
    names = [[raw.name for raw in raws] for raws in (seen, unseen)]
    output.write_json({"file": str(options.file), "seen": names[0], "unseen": names[1]})
    output.results.print(f"{options.file}: {len(seen + unseen)} domains", soft_wrap=True)
    overrides = [
        "benchmark.name=table",
        f"benchmark.table.file={options.file}",
        f"benchmark.order=[{','.join(names[0])}]",
        f"benchmark.unseen=[{','.join(names[1])}]",
    ]
    output.note(f"to use it: {shlex.join(overrides)}")
    return 0
