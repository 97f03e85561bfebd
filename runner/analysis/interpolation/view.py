"""Table of an interpolation: the end points and the chosen coefficient of every step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from runner.results.format import format_score

_COLUMNS = ("seen", "old", "new", "unseen")


def interpolation_table(results: Mapping[str, Any], split: str) -> Table:
    """mAP in percent of the old, the chosen and the new weights; a block per step.

    Args:
        results: results.json of an interpolation.
        split: split of the scores shown beside the validation average, which decides the choice.
    """
    table = Table(
        title=f"{results['run']}: interpolation of old and new weights\n(mAP, %)",
        caption="a: coefficient of the new weights; * chosen. old: domains learned before.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
    )
    table.add_column("step", justify="right")
    table.add_column("domain", no_wrap=True)
    for heading in ("a", "validation\nseen", *(f"{split}\n{each}" for each in _COLUMNS)):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in results["steps"]:
        by_alpha = {point["alpha"]: point["averages"] for point in step["mixtures"]}
        chosen = step["chosen_alpha"]
        for index, alpha in enumerate(sorted({0.0, 1.0} | ({chosen} - {None}))):
            first = (str(step["step"]), Text(step["domain"])) if index == 0 else ("", "")
            averages = by_alpha[alpha]
            columns = [("validation", "seen"), *((split, each) for each in _COLUMNS)]
            values = [averages[part][f"{each}_mAP"] for part, each in columns]
            style = "bold cyan" if alpha == chosen else ""
            coefficient = f"{alpha:g} *" if alpha == chosen else f"{alpha:g}  "
            cells = [coefficient, *map(format_score, values)]
            table.add_row(*first, *(Text(cell, style=style) for cell in cells))
        table.add_section()
    return table


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Notes on how to read the numbers, one or two sentences each."""
    notes = [f"a is chosen by {results['chosen_by']}."]
    unchosen = [step["domain"] for step in results["steps"] if step["chosen_alpha"] is None]
    if unchosen:
        notes = [
            f"No a is chosen for {', '.join(unchosen)}: not every domain learned so far has "
            "validation identities (benchmark.num_validation_identities of the run), and test "
            "identities must not decide."
        ] + (notes if len(unchosen) < len(results["steps"]) else [])
    if training := results["mixed_while_training"]:
        alpha = training["alpha"]
        mode = training["mode"] + ("" if alpha is None else f", alpha {alpha:g}")
        notes.append(
            f"The stored weights are already interpolated: the run interpolated during training "
            f"({mode}), so a = 1 is the interpolated model, not the weights at the end of training."
        )
    difference = results["largest_difference_from_record"]
    if difference is None:
        notes.append("The run was recorded under another protocol; the end points are unchecked.")
    elif difference == 0:
        notes.append("The end points a = 0 and a = 1 equal the scores recorded by the run.")
    else:
        notes.append(
            f"The end points differ from the scores recorded by the run by at most "
            f"{difference:.2g} points: rounding "
            "differs with the device, the number of threads and the batch size."
        )
    return notes


def write_figure(results: Mapping[str, Any], split: str, folder: Path) -> Path:
    """Writes `curves-<split>.png` into `folder`; returns its path."""
    # matplotlib is slow to import
    from runner.analysis.interpolation.plot import draw_interpolation
    from runner.plotting.style import save_figure

    return save_figure(draw_interpolation(results, split), folder / f"curves-{split}.png")
