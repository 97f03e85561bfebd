"""`disentangle`: how far identity and clothing came apart in finished runs of BDAM.

Linear probes, dependence, search under a change of clothes, and pictures, on drawn people, of whom
every attribute is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from rich.console import Console

from runner.commands.evaluate import add_model_arguments

HELP = "measure how far identity and clothing came apart in runs of bdam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, what is measured on, what is shown."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="finished runs of bdam on drawn people: names under the storage folder, or folders; "
        "several are shown side by side. key=value among them sets benchmark and evaluation",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument(
        "--people", type=int, default=200, metavar="N", help="people of each domain (default: 200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of outfits, folds and permutations (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with unrounded numbers")
    parser.set_defaults(overrides=[])


def main(options: argparse.Namespace) -> int:
    """Measures and shows; returns the exit status."""
    import json

    from runner.analysis.disentanglement.comparison import group_measured, to_json
    from runner.analysis.disentanglement.measure import (
        FILE,
        Settings,
        check_run,
        measure,
        panel_cache,
    )
    from runner.analysis.disentanglement.plot import write_figures
    from runner.analysis.disentanglement.view import comparison_table, names_of, show
    from runner.results.finished_runs import read_finished

    names, overrides = _runs_and_overrides([*options.runs, *options.overrides])
    for name in names:
        check_run(name, options.storage)
    finished = [read_finished(name, options.storage) for name in names]
    settings = Settings(people=options.people, seed=options.seed)
    panel_of = panel_cache(settings)
    console, results, written = Console(), [], []
    for name in names:
        measured = measure(
            name,
            options.storage,
            settings,
            overrides,
            panel_of,
            after=options.after,
            checkpoint=options.checkpoint,
            use_gpu=options.gpu,
        )
        results.append(measured.results)
        written += [measured.run.storage.folder / FILE, *write_figures(measured)]
    beside = group_measured(finished, results)
    if options.json:
        print(json.dumps({"runs": results, "groups": to_json(beside)}, indent=1))
        return 0
    if len(names) == 1:
        show(console, results[0])
    else:
        console.print(comparison_table(beside))
        for sentence in names_of(beside):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"Written   {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _runs_and_overrides(given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tells runs from `key=value`.

    Raises:
        ValueError: no run.
    """
    names: list[str] = []
    overrides: list[str] = []
    for each in given:
        key, separator, _ = each.partition("=")
        (overrides if separator and "/" not in key else names).append(each)
    if not names:
        raise ValueError("expected at least one run: its name under --storage, or its folder")
    return names, overrides
