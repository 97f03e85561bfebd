"""Measure how well finished BDAM runs separate identity from clothing.

Computes statistical dependence, the values of both gates, and figures, on test
people of the run's benchmark; on synthetic people, whose attributes are known,
also linear probes and retrieval under a change of clothes.
"""

from __future__ import annotations

import argparse

from runner.commands._arguments import (
    add_model_arguments,
    add_output_arguments,
    split_overrides,
)
from runner.commands._output import Output

HELP = "measure how well bdam runs separate identity from clothing"
EXAMPLE = "RUN_A RUN_B --people 400"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `disentangle`."""
    parser.add_argument(
        "names", nargs="+", metavar="RUN",
        help="finished bdam runs: names in the folder of runs, or folders; "
        "several runs are compared. Benchmark and evaluation settings (key=value) may follow",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument(
        "--people", type=int, default=200, metavar="N",
        help="people per domain, real data: at most (default: 200)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0,
        help="seed of people, outfits, cross-validation folds and permutations (default: 0)",
    )  # fmt: skip
    parser.set_defaults(overrides=[])
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Measures every run and prints the tables."""
    from runner.analysis.disentanglement.comparison import group_measured, other_people, to_json
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

    names, overrides = split_overrides([*options.names, *options.overrides])
    if not names:
        raise ValueError("expected at least one run: its name in the folder of runs, or its folder")
    for name in names:
        check_run(name, options.runs_folder)
    finished = [read_finished(name, options.runs_folder) for name in names]
    settings = Settings(people=options.people, seed=options.seed)
    panel_of = panel_cache(settings)
    results, files = [], []
    for name in names:
        measured = measure(
            name,
            options.runs_folder,
            settings,
            overrides,
            panel_of,
            after=options.after,
            checkpoint=options.checkpoint,
            use_gpu=options.gpu,
        )
        results.append(measured.results)
        files += [measured.run.storage.folder / FILE, *write_figures(measured)]
    compared = group_measured(finished, results)
    output.write_json({"runs": results, "groups": to_json(compared)})
    if len(names) == 1:
        show(output.results, results[0])
    else:
        output.results.print(comparison_table(compared))
        for sentence in [*names_of(compared), *other_people(compared)]:
            output.results.print(sentence, soft_wrap=True)
    for file in files:
        output.note(f"Results   {file}")
    return 0
