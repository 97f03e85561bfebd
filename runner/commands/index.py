"""`index`: embeds a gallery with a finished run's model, to be searched."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from runner.commands.evaluate import add_run_arguments, index_folder, run_of

HELP = "embed a gallery with a finished run's model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, which gallery, where to."""
    add_run_arguments(parser)
    parser.add_argument("--benchmark", metavar="NAME", help="default: the run's own")
    parser.add_argument(
        "--domain", action="append", default=[], metavar="NAME",
        help="test gallery of this domain alone; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images of a folder instead of a benchmark's"
    )
    parser.add_argument(
        "--output", type=Path, help="default: index/ (or index-validation/) in the run's folder"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of benchmark, such as benchmark.root=..."
    )


def main(options: argparse.Namespace) -> int:
    """Builds and saves it; returns the exit status."""
    from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
    from runner.analysis.gallery_search import build_index, gallery_of, images_below

    run = run_of(options)
    if options.images is not None:
        images = images_below(options.images)
    else:
        settings = settings_for(run, options.benchmark, options.overrides)
        images = gallery_of(benchmark_to_test(run, settings), options.domain)
    folder = options.output or index_folder(run.storage.folder, options.checkpoint)
    index = build_index(run, images, folder)
    console = Console()
    left_out = len(images) - len(index)
    console.print(
        f"indexed {len(index)} images ({index.kind}, width {index.width})"
        + (f"; {left_out} unreadable ones are left out" if left_out else "")
    )
    console.print(f"Index   {folder}", soft_wrap=True)
    console.print(
        f"Search  python runner/lifelong.py search {run.storage.folder} --image FILE"
        + " --checkpoint validation" * (options.checkpoint == "validation"),
        soft_wrap=True,
    )
    return 0
