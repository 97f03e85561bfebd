"""Mixtures for the eye: the end points and the chosen mixture of every step, and what to know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_MISSING = "·"
_COLUMNS = ("seen", "old", "new", "unseen")


def mixtures_table(results: Mapping[str, Any], split: str) -> Table:
    """A block per step: the old weights, the chosen mixture, the new weights; mAP in percent.

    Args:
        results: results.json of an interpolation.
        split: whose scores stand beside the validation average that the choice is made by.
    """
    table = Table(
        title=f"{results['run']}: old and new weights mixed\n(mAP, %)",
        caption="a: share of the new weights; * chosen. old: the domains learned before.",
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
        by_alpha = {mixture["alpha"]: mixture["averages"] for mixture in step["mixtures"]}
        chosen = step["chosen_alpha"]
        for index, alpha in enumerate(sorted({0.0, 1.0} | ({chosen} - {None}))):
            first = (str(step["step"]), Text(step["domain"])) if index == 0 else ("", "")
            found = by_alpha[alpha]
            shown = [("validation", "seen"), *((split, each) for each in _COLUMNS)]
            values = [found[part][f"{each}_mAP"] for part, each in shown]
            style = "bold cyan" if alpha == chosen else ""
            share = f"{alpha:g} *" if alpha == chosen else f"{alpha:g}  "
            cells = [share, *map(_percent, values)]
            table.add_row(*first, *(Text(cell, style=style) for cell in cells))
        table.add_section()
    return table


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers, a sentence or two each."""
    said = [f"a is chosen by {results['chosen_by']}."]
    without = [step["domain"] for step in results["steps"] if step["chosen_alpha"] is None]
    if without:
        said = [
            f"Nothing is chosen for {', '.join(without)}: not every domain learned so far has "
            "validation people (benchmark.num_validation_identities of the run), and test people "
            "must not decide."
        ] + (said if len(without) < len(results["steps"]) else [])
    if mixed := results["mixed_while_training"]:
        how = mixed["mode"] + ("" if mixed["alpha"] is None else f", alpha {mixed['alpha']:g}")
        said.append(
            f"The kept weights are already mixed: the run interpolated while it trained ({how}), "
            "so a = 1 is its mixture, not the weights that training ended with."
        )
    difference = results["largest_difference_from_record"]
    if difference is None:
        said.append("The run's own record is of another protocol; the end points are unchecked.")
    elif difference == 0:
        said.append("The end points a = 0 and a = 1 are what the run itself recorded.")
    else:
        said.append(
            f"The end points differ from what the run itself recorded by at most {difference:.2g} "
            "points: another device, another number of threads or other batches round otherwise."
        )
    return said


def write_figure(results: Mapping[str, Any], split: str, folder: Path) -> Path:
    """Draws `curves-<split>.png` into `folder`."""
    from runner.analysis.interpolation.plot import (
        draw_mixtures,
    )  # matplotlib takes its time to load

    file = folder / f"curves-{split}.png"
    draw_mixtures(results, split).savefig(file, dpi=160)
    return file


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.1f}"
