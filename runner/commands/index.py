"""Embed gallery images with the model of a finished run, for `search`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runner import program_name
from runner.commands._arguments import (
    add_domains,
    add_output_arguments,
    add_overrides,
    add_renamed,
    add_run_arguments,
    index_folder,
    load_trained_run,
    split_overrides,
)
from runner.commands._output import Output

if TYPE_CHECKING:
    from runner.analysis.trained_run import TrainedRun

HELP = "embed gallery images with the model of a finished run"
EXAMPLE = "RUN --data photos/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `index`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="benchmark whose images are indexed (default: that of the run)",
    )
    add_domains(parser, "index only the test galleries of these domains (default: all)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="index a folder of images instead of a benchmark"
    )
    add_renamed(parser, "--images", "--data")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="folder of the index (default: index/ or index-validation/ in the run's folder)",
    )  # fmt: skip
    add_overrides(parser, "benchmark settings, such as benchmark.root=...")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Builds and saves the index."""
    from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
    from runner.analysis.gallery_search import build_index, gallery_of, images_below

    domains, overrides = split_overrides([*options.domain, *options.overrides])
    run = load_trained_run(options)
    if options.data is not None:
        images = images_below(options.data)
    else:
        settings = settings_for(run, options.benchmark, overrides)
        images = gallery_of(benchmark_to_test(run, settings), domains)
    folder = options.output or index_folder(run.storage.folder, options.checkpoint)
    index = build_index(run, images, folder)
    num_unreadable = len(images) - len(index)
    output.write_json(
        {
            "index": str(folder),
            "num_images": len(index),
            "num_unreadable_images": num_unreadable,
            "kind": index.kind,
            "width": index.width,
        }
    )
    unreadable = f"; {num_unreadable} unreadable images are skipped" if num_unreadable else ""
    output.results.print(
        f"indexed {len(index)} images ({index.kind}, width {index.width}){unreadable}"
    )
    output.note(f"Index   {folder}")
    output.note(f"Search  {_search_command(options, run)}")
    return 0


def _search_command(options: argparse.Namespace, run: TrainedRun) -> str:
    """Command that searches this index with this model."""
    query = ["--text", "TEXT"] if run.learner.embeds_texts else ["--image", "FILE"]
    words = ["search", str(run.storage.folder), *query]
    if options.checkpoint != "last":
        words += ["--checkpoint", options.checkpoint]
    if options.after is not None:
        words += ["--after", options.after]
    if options.output is not None:
        words += ["--index", str(options.output)]
    return f"{program_name()} {shlex.join(words)}"
