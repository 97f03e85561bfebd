"""`search`: the most similar images of an index, as a list and as a contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from runner.commands.evaluate import add_run_arguments, index_folder, run_of

HELP = "search an index by image, or by text for text-to-image learners"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, queries, where the index is."""
    add_run_arguments(parser)
    parser.add_argument("--image", action="append", default=[], metavar="FILE", type=Path)
    parser.add_argument("--text", action="append", default=[], metavar="WORDS")
    parser.add_argument(
        "--queries", type=int, default=0, metavar="N",
        help="N test queries of each domain of the run's benchmark; their people are known",
    )  # fmt: skip
    parser.add_argument("--domain", action="append", default=[], metavar="NAME",
                        help="of --queries (default: all)")  # fmt: skip
    parser.add_argument("--k", type=int, default=10, help="results of a query (default: 10)")
    parser.add_argument("--index", type=Path, help="default: where `index` puts it")
    parser.add_argument("--output", type=Path, help="default: search.png in the run's folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of benchmark")


def main(options: argparse.Namespace) -> int:
    """Searches, prints the results and draws them; returns the exit status."""
    from runner.analysis.cross_evaluation import benchmark_to_test, settings_for
    from runner.analysis.gallery_search import (
        UNKNOWN,
        Query,
        open_index,
        queries_of,
        search,
        sheet_rows,
    )
    from runner.plotting.contact_sheet import draw_sheet
    from tasks.schema import Record

    if options.k < 1:
        raise ValueError(f"--k: expected at least 1, got {options.k}")
    for file in options.image:
        if not file.is_file():
            raise FileNotFoundError(f"--image: there is no file {file}")
    queries = [Query(Record(str(file), UNKNOWN, UNKNOWN)) for file in options.image]
    queries += [Query(None, _asked(text)) for text in options.text]
    run = run_of(options)
    if options.queries:
        benchmark = benchmark_to_test(run, settings_for(run, None, options.overrides))
        queries += queries_of(benchmark, options.domain, options.queries)
    if not queries:
        raise ValueError(
            "expected something to search for: --image FILE, --text WORDS, --queries N"
        )
    folder = options.index or index_folder(run.storage.folder, options.checkpoint)
    found = search(run, open_index(run, folder), queries, options.k, folder)
    console = Console()
    for each in found:
        console.print(f"[bold]{each.query.name}[/]", highlight=False, soft_wrap=True)
        for number, hit in enumerate(each.hits, start=1):
            known = "" if hit.kind == "unknown" else f"  {hit.kind}"
            console.print(
                f"  {number:3d}  {hit.similarity:.4f}{known}  {hit.entry.image_path}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    output = options.output or run.storage.folder / "search.png"
    draw_sheet(sheet_rows(found), output)
    console.print(f"Contact sheet  {output}", soft_wrap=True)
    return 0


def _asked(text: str) -> str:
    """A text to search by.

    Raises:
        ValueError: it says nothing, or too much.
    """
    from tasks.text.text_files import is_latin, one_text

    words = one_text(text, "--text")
    if not words:
        raise ValueError('--text: expected words, such as "a woman in a red coat"; got none')
    if not is_latin(words):
        Console(stderr=True).print(
            f"warning: {words!r:.60} has no Latin letter; a text tower that learned English hardly "
            "knows it",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return words
