"""Search an index for the most similar images.

Prints a list and writes a contact sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands._arguments import (
    add_domains,
    add_output_arguments,
    add_overrides,
    add_run_arguments,
    index_folder,
    load_trained_run,
    split_overrides,
)
from runner.commands._output import Output

HELP = "search an index by image or, for text-to-image learners, by text"
EXAMPLE = 'RUN --text "a woman in a red coat" --k 5'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", type=Path,
        help="image query; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--text", action="append", default=[], metavar="TEXT", help="text query; may be repeated"
    )
    parser.add_argument(
        "--queries", type=int, default=0, metavar="N",
        help="first N test queries of each domain of the run's benchmark, with known identities",
    )  # fmt: skip
    add_domains(parser, "domains of --queries (default: all)")
    parser.add_argument("--k", type=int, default=10, help="results per query (default: 10)")
    parser.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="folder of the index (default: the one that `index` writes)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="contact sheet (default: search.png in the run's folder)",
    )  # fmt: skip
    add_overrides(parser, "benchmark settings, such as benchmark.root=...")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Searches, prints the results and writes the contact sheet."""
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
            raise FileNotFoundError(f"--image: expected an image file; {file} does not exist")
    domains, overrides = split_overrides([*options.domain, *options.overrides])
    queries = [Query(Record(str(file), UNKNOWN, UNKNOWN)) for file in options.image]
    queries += [Query(None, _text_query(text, output)) for text in options.text]
    run = load_trained_run(options)
    if options.queries:
        benchmark = benchmark_to_test(run, settings_for(run, None, overrides))
        queries += queries_of(benchmark, domains, options.queries)
    if not queries:
        raise ValueError("expected a query: --image FILE, --text TEXT or --queries N")
    folder = options.index or index_folder(run.storage.folder, options.checkpoint)
    matches = search(run, open_index(run, folder), queries, options.k, folder)
    sheet = options.output or run.storage.folder / "search.png"
    draw_sheet(sheet_rows(matches), sheet)
    output.write_json(
        {
            "index": str(folder),
            "contact_sheet": str(sheet),
            "queries": [
                {
                    "query": match.query.name,
                    "hits": [
                        {
                            "image": hit.entry.image_path,
                            "similarity": hit.similarity,
                            "kind": hit.kind,
                        }
                        for hit in match.hits
                    ],
                }
                for match in matches
            ],
        }
    )
    for match in matches:
        output.results.print(match.query.name, style="bold", soft_wrap=True)
        for number, hit in enumerate(match.hits, start=1):
            kind = "" if hit.kind == "unknown" else f"  {hit.kind}"
            output.results.print(
                f"  {number:3d}  {hit.similarity:.4f}{kind}  {hit.entry.image_path}",
                soft_wrap=True,
            )
    output.note(f"Contact sheet  {sheet}")
    return 0


def _text_query(text: str, output: Output) -> str:
    """Normalises a text query; warns if it has no Latin letter.

    Raises:
        ValueError: The text is empty or too long.
    """
    from tasks.text.text_files import is_latin, normalise_text

    query = normalise_text(text, "--text")
    if not query:
        raise ValueError('--text: expected a text such as "a woman in a red coat", got none')
    if not is_latin(query):
        output.warnings.print(
            f"warning: --text {query!r:.60} has no Latin letter; text towers trained on English "
            "hardly represent it",
            soft_wrap=True,
        )
    return query
