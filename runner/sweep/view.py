"""What came out of a sweep, for the terminal, and how long it may still take."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from runner import program_name
from runner.sweep.outcome import Outcome, shown_path
from runner.sweep.parameters import same
from runner.sweep.plot import FOLDER
from runner.sweep.settings import SweepSettings
from runner.sweep.table import (
    default_missing,
    percent,
    said,
    saved_words,
    score_of,
    seconds_of,
    short_names,
)
from runner.sweep.trial_records import TrialRecord

_MAX_IMPORTANCES = 6


def final_table(outcome: Outcome) -> list[RenderableType]:
    """Best trial beside the preset's own values, importances, files, and what to type next."""
    parts: list[RenderableType] = [_facts(outcome)]
    if outcome.best is None:
        parts.append(Text("No trial has finished, so there is no best one.", style="yellow"))
    else:
        parts.append(_comparison(outcome, outcome.best))
    if reason := default_missing(outcome) if outcome.best else None:
        parts.append(Text(f"The preset's own values were not measured: {reason}"))
    parts += [_importances(outcome, name) for name in outcome.importances]
    if outcome.front:
        numbers = ", ".join(str(record.number) for record in outcome.front)
        trials = "trial" if len(outcome.front) == 1 else "trials"
        parts.append(Text(f"Pareto front: {trials} {numbers} (pareto/<number>.yaml)"))
    parts.append(_files(outcome))
    return parts


def time_left_s(
    records: Iterable[TrialRecord], settings: SweepSettings, now_s: float
) -> float | None:
    """Seconds until the last trial ends, by the mean of those that ended; None before any did.

    Args:
        records: of all trials so far.
        settings: how many there will be, and how many side by side.
        now_s: Unix time.
    """
    known = list(records)
    ended = [record for record in known if record.state != "running"]
    times = [s for each in ended if each.state != "failed" and (s := seconds_of(each)) is not None]
    if not times:
        return None
    mean_s = fmean(times)
    # One that takes longer than the mean is about to end.
    done = [
        min(mean_s, now_s - each.began) for each in known if each.state == "running" and each.began
    ]
    num_left = max(0, settings.num_trials - len(ended))
    if not num_left:
        return 0.0
    side_by_side = max(1, min(settings.concurrent, num_left))
    return max(0.0, num_left * mean_s - sum(done)) / side_by_side


def _facts(outcome: Outcome) -> Text:
    counts = ", ".join(f"{number} {state}" for state, number in outcome.counts.items())
    text = Text(f"Sweep {outcome.settings.name}", style="bold")
    said = f": {len(outcome.records)} trials ({counts}). {saved_words(outcome)}"
    text.append(said, style="not bold")
    return text


def _comparison(outcome: Outcome, best: TrialRecord) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column(f"best: trial {best.number}", justify="right", overflow="fold")
    table.add_column("preset's own", justify="right", overflow="fold")
    for each in outcome.settings.objectives:
        pair = [percent(score_of(one, "validation", each.name)) for one in (best, outcome.default)]
        table.add_row(Text(f"{each.name} (%), validation"), *pair, style="bold")
    for each in outcome.settings.objectives:
        pair = [percent(score_of(one, "test", each.name)) for one in (best, outcome.default)]
        label = f"{each.name} (%), test: not looked at by the search"
        table.add_row(Text(label), *pair, style="dim")
    table.add_section()
    own, names = outcome.own, short_names(outcome.keys)
    for key in outcome.keys:
        if key in best.values or key in own:
            _add_parameter(table, names[key], key, best.values, own)
    return table


def _add_parameter(table: Table, name: str, key: str, mine: Any, own: Any) -> None:
    values = [said(each[key]) if key in each else "·" for each in (mine, own)]
    changed = (key in mine) != (key in own) or not same(mine[key], own[key])
    table.add_row(*map(Text, (name, *values)), style="" if changed else "dim")


def _importances(outcome: Outcome, objective: str) -> Text:
    found, names = outcome.importances[objective], short_names(outcome.keys)
    text = Text(f"What {objective} depends on: ")
    if not found.of:
        return text.append(f"not known, {found.why}")
    several = list(found.of.items())
    shares = [
        f"{names[key]} {100 * one.share:.0f} %"
        + (f" (in the {one.num_trials} trials with it)" if one.is_conditional else "")
        for key, one in several[:_MAX_IMPORTANCES]
    ]
    text.append(", ".join(shares))
    text.append(f"; fANOVA of {found.num_trials} trials", style="dim")
    return text


def _files(outcome: Outcome) -> Text:
    folder = shown_path(outcome.folder)
    text = Text(f"In {folder}: trials.csv, summary.json, table.md, {FOLDER}/")
    if outcome.preset is not None:
        text.append("\nRun the best:  ")
        command = f"{program_name()} run --preset {shown_path(outcome.preset)}"
        text.append(command, style="bold")
    return text
