"""Write one self-contained HTML file about a run, or about several side by side.

The file contains scores, the result matrix, curves, losses, settings and the
protocol. With the checkpoint and the images, it also shows ranked lists and
what the learner attends to. It opens from disk and needs no network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands._arguments import (
    add_gpu,
    add_output_arguments,
    add_runs_folder,
    split_overrides,
)
from runner.commands._output import Output

HELP = "write an HTML report about one or several finished runs"
EXAMPLE = "RUN_A RUN_B --output report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `report`."""
    parser.add_argument(
        "names", nargs="+", metavar="RUN",
        help="finished runs: names in the folder of runs, or folders. Benchmark settings "
        "(benchmark.root=...) may follow",
    )  # fmt: skip
    add_runs_folder(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="HTML file (default: report.html in the run's folder; for several runs in the "
        "folder of runs)",
    )  # fmt: skip
    parser.add_argument(
        "--no-model", action="store_true",
        help="leave out everything that needs the checkpoint and the images",
    )  # fmt: skip
    add_gpu(parser)
    parser.set_defaults(overrides=[])
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Writes the report."""
    from runner.config.run_config import base_folder
    from runner.html_report.page import FILE, write_report
    from runner.results.finished_runs import read_finished

    names, overrides = split_overrides([*options.names, *options.overrides])
    if not names:
        raise ValueError("expected at least one run: its name in the folder of runs, or its folder")
    runs = [read_finished(name, options.runs_folder) for name in names]
    several = base_folder() / Path(options.runs_folder).expanduser() / FILE
    file = options.output or (runs[0].folder / FILE if len(runs) == 1 else several)
    models = None
    if not options.no_model:
        from runner.analysis.report_content.collect import collect_content

        with output.status.status("reading") as status:
            models = collect_content(
                runs, overrides, use_gpu=options.gpu, report=lambda text: status.update(text)
            )
    write_report(runs, file, models)
    notes = [note for model in models or () for note in model.notes]
    output.write_json({"report": str(file), "bytes": file.stat().st_size, "notes": notes})
    for note in notes:
        output.warnings.print(note, soft_wrap=True)
    output.note(f"Report    {file}")
    return 0
