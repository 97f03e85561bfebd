"""`attributes`: whether the attribute features of VLADR runs find people by part captions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from runner.analysis.attribute_retrieval import AttributeScores

HELP = "search drawn people by captions of their parts, with the attribute features of vladr runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, what is measured on, what is shown."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="finished runs of vladr on drawn people: names under the storage folder, or folders",
    )  # fmt: skip
    parser.add_argument("--storage", default="runs", help="folder of runs (default: runs)")
    parser.add_argument(
        "--after", metavar="DOMAIN", help="the model as it was after this domain (default: last)"
    )
    parser.add_argument(
        "--people", type=int, default=100, metavar="N", help="test people (default: 100)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with unrounded numbers")
    parser.add_argument("--gpu", action="store_true", help="compute on the first CUDA device")
    parser.set_defaults(overrides=[])


def main(options: argparse.Namespace) -> int:
    """Measures and shows; returns the exit status."""
    import json

    from runner.analysis.attribute_retrieval import scores_file, search_by_captions

    if options.people < 2:
        raise ValueError(f"--people: expected two or more, got {options.people}")
    console, shown = Console(), []
    for name in [*options.runs, *options.overrides]:
        run, scores = search_by_captions(
            name,
            options.storage,
            num_people=options.people,
            after=options.after,
            use_gpu=options.gpu,
        )
        shown.append({"run": run.storage.folder.name, **json.loads(scores_file(run).read_text())})
        if not options.json:
            console.print(_table(run.storage.folder.name, scores))
            console.print(f"Written   {scores_file(run)}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps(shown, indent=1))
    return 0


def _table(run: str, scores: AttributeScores) -> Table:
    other = "" if scores.other is None else f", by others' {scores.other:.1f}"
    table = Table(
        title=f"{run}: people of {scores.domain} by captions, mAP (%)",
        caption=f"each attribute by its own captions {scores.own:.1f}{other}; "
        f"chance {scores.chance:.1f}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("caption")
    for name in scores.features:
        table.add_column(
            f"attribute {name}" if name != scores.features[-1] else name, justify="right"
        )
    for name, row in zip(scores.captions, scores.mAP, strict=True):
        table.add_row(name, *(f"{value:.1f}" for value in row))
    return table
