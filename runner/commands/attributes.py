"""Test whether attribute features of VLADR runs retrieve people by captions.

The captions describe single parts of synthetic people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from runner.commands._arguments import (
    add_after,
    add_domains,
    add_gpu,
    add_output_arguments,
    add_runs_folder,
    split_overrides,
)
from runner.commands._output import Output

if TYPE_CHECKING:
    from runner.analysis.attribute_retrieval import AttributeScores

HELP = "retrieve synthetic people by part captions with the attribute features of vladr runs"
EXAMPLE = "RUN --people 200 --domain all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `attributes`."""
    parser.add_argument(
        "names", nargs="+", metavar="RUN",
        help="finished vladr runs on synthetic data: names in the folder of runs, or folders",
    )  # fmt: skip
    add_runs_folder(parser)
    add_after(parser)
    add_domains(parser, "domains of the people, or all (default: the one learned last)")
    parser.add_argument(
        "--people",
        type=int,
        default=100,
        metavar="N",
        help="number of test people of a domain (default: 100)",
    )
    add_gpu(parser)
    parser.set_defaults(overrides=[])
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Computes and prints the scores of every run."""
    import json

    from runner.analysis.attribute_retrieval import scores_file, search_by_captions

    if options.people < 2:
        raise ValueError(f"--people: expected at least 2, got {options.people}")
    names, overrides = split_overrides([*options.names, *options.overrides])
    if overrides:
        raise ValueError(f"{overrides[0]}: expected names of runs; attributes has no overrides")
    documents = []
    for name in names:
        run, scores = search_by_captions(
            name,
            options.runs_folder,
            num_people=options.people,
            after=options.after,
            domains=options.domain,
            use_gpu=options.gpu,
        )
        file = scores_file(run)
        documents.append({"run": run.storage.folder.name, **json.loads(file.read_text())})
        title = run.storage.folder.name
        output.results.print(
            _table(title, scores[0]) if len(scores) == 1 else _means(title, scores)
        )
        output.note(f"Results   {file}")
    output.write_json(documents)
    return 0


def _table(run: str, scores: AttributeScores) -> Table:
    other = "" if scores.other is None else f", by other captions {scores.other:.1f}"
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


def _means(run: str, domains: Sequence[AttributeScores]) -> Table:
    table = Table(
        title=f"{run}: people by captions of their parts, mAP (%)",
        caption="own: the attribute of the caption; other: the other attributes",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("domain")
    for name in ("own", "other", domains[0].features[-1], "chance"):
        table.add_column(name, justify="right")
    for each in domains:
        values = (each.own, each.other, each.whole, each.chance)
        table.add_row(each.domain, *("" if value is None else f"{value:.1f}" for value in values))
    return table
