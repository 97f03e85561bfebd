"""Summary of a sweep for the console, and the estimate of the time left."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from statistics import fmean

from rich.console import RenderableType
from rich.text import Text

from runner import program_name
from runner.sweep.outcome import Outcome, shown_path
from runner.sweep.plot import FOLDER
from runner.sweep.settings import SweepSettings
from runner.sweep.table import (
    NO_BEST,
    best_table,
    default_missing,
    saved_words,
    seconds_of,
    short_names,
)
from runner.sweep.trial_records import TrialRecord

_MAX_IMPORTANCES = 6


def summary(outcome: Outcome) -> list[RenderableType]:
    """Best trial next to the preset, importances, files, and the command that runs the best."""
    parts: list[RenderableType] = [_heading(outcome)]
    if outcome.best is None:
        parts.append(Text(NO_BEST, style="yellow"))
    else:
        parts += [best_table(outcome, outcome.best).to_console(), Text()]
        if reason := default_missing(outcome):
            parts.append(Text(f"The values of the preset were not measured: {reason}"))
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
    """Estimates the seconds until the last trial ends, from the mean duration of ended trials.

    Args:
        records: records of all trials so far.
        settings: number of trials, and of concurrent trials.
        now_s: Unix time.

    Returns:
        Seconds; None before the first trial has ended.
    """
    known = list(records)
    ended = [record for record in known if record.state != "running"]
    times = [s for each in ended if each.state != "failed" and (s := seconds_of(each)) is not None]
    if not times:
        return None
    mean_s = fmean(times)
    # A trial that runs longer than the mean counts as about to end.
    done = [
        min(mean_s, now_s - each.began) for each in known if each.state == "running" and each.began
    ]
    num_left = max(0, settings.num_trials - len(ended))
    if not num_left:
        return 0.0
    num_concurrent = max(1, min(settings.concurrent, num_left))
    return max(0.0, num_left * mean_s - sum(done)) / num_concurrent


def _heading(outcome: Outcome) -> Text:
    counts = ", ".join(f"{number} {state}" for state, number in outcome.counts.items())
    text = Text(f"Sweep {outcome.settings.name}", style="bold")
    facts = f": {len(outcome.records)} trials ({counts}). {saved_words(outcome)}"
    text.append(facts, style="not bold")
    return text


def _importances(outcome: Outcome, objective: str) -> Text:
    importances, names = outcome.importances[objective], short_names(outcome.keys)
    text = Text(f"Importance for {objective}: ")
    if not importances.of:
        return text.append(f"unknown, {importances.why}")
    shares = [
        f"{names[key]} {100 * one.share:.0f} %"
        + (f" (in the {one.num_trials} trials with it)" if one.is_conditional else "")
        for key, one in list(importances.of.items())[:_MAX_IMPORTANCES]
    ]
    text.append(", ".join(shares))
    text.append(f"; fANOVA of {importances.num_trials} trials", style="dim")
    return text


def _files(outcome: Outcome) -> Text:
    folder = shown_path(outcome.folder)
    text = Text(f"In {folder}: trials.csv, summary.json, table.md, {FOLDER}/")
    if outcome.preset is not None:
        text.append("\nRun the best:  ")
        command = f"{program_name()} run --preset {shlex.quote(shown_path(outcome.preset))}"
        text.append(command, style="bold")
    return text
