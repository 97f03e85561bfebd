"""Trials of a sweep as CSV, JSON and Markdown, and short names of parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.results.format import MISSING, error_line, format_score
from runner.results.table import Column, Table
from runner.sweep.outcome import Outcome
from runner.sweep.parameters import as_text, same
from runner.sweep.trial_records import TrialRecord

_RANKS = ("finished", "stopped", "running", "failed")
_SPLITS = ("validation", "test")


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shortest unambiguous suffix of each dotted path, with at least two parts.

    The first part, usually `learner`, is included only if the rest is ambiguous.
    """
    return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def format_value(value: Any) -> str:
    """Value of a parameter as text: floats with four significant digits, text without quotes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    return value if isinstance(value, str) else as_text(value)


def format_objective(value: float | None) -> str:
    """Score in percent with two decimals."""
    return format_score(value, decimals=2)


def seconds_of(record: TrialRecord) -> float | None:
    """Duration that the trial reported, otherwise the time between its start and its end."""
    if record.last is not None:
        return record.last.seconds
    if record.began is None or record.ended is None:
        return None
    return record.ended - record.began


def score_of(record: TrialRecord | None, split: str, name: str) -> float | None:
    """Score of a finished trial on `validation` or `test`; None for other trials."""
    if record is None or record.last is None or record.state != "finished":
        return None
    return _scores(record, split).get(name)


def ranked(outcome: Outcome) -> list[TrialRecord]:
    """Trials by state, then by their progress, then by the first objective."""
    objective = outcome.objective

    def order(record: TrialRecord) -> tuple[int, int, float]:
        value = objective.of(record.last) if record.last else None
        signed = float("inf") if value is None else (-value if objective.mode == "max" else value)
        return _RANKS.index(record.state), -record.progress, signed

    return sorted(outcome.records, key=order)


def to_csv(outcome: Outcome) -> str:
    """Content of trials.csv: a row for each trial; missing values are empty fields."""
    scores = [
        (split, name)
        for split in _SPLITS
        for name in _union(_scores(record, split) for record in outcome.records)
    ]
    objectives = outcome.settings.objectives
    names = ["number", "state", "learned_domains", *(["epochs"] if outcome.by_epoch else [])]
    names += [each.name for each in objectives]
    names += [f"{split}.{name}" for split, name in scores]
    names += ["seconds", "reason", *outcome.keys]
    rows = [
        (
            record.number,
            record.state,
            record.learned_domains,
            *([record.progress] if outcome.by_epoch else []),
            *(each.of(record.last) if record.last else None for each in objectives),
            *(_scores(record, split).get(name) for split, name in scores),
            seconds_of(record),
            record.reason,
            *(
                _csv_value(record.values[key]) if key in record.values else None
                for key in outcome.keys
            ),
        )
        for record in outcome.records
    ]
    return Table.of(names, rows).to_csv()


def to_json(outcome: Outcome) -> str:
    """Content of summary.json: best trial, default, counts, importances, domains saved."""
    settings = outcome.settings
    run, saved = outcome.progress_run, outcome.progress_saved
    values = {
        "name": settings.name,
        "preset": settings.preset,
        "space": outcome.space.name,
        "objectives": {each.name: each.mode for each in settings.objectives},
        "seeds": list(settings.seeds),
        "trials": outcome.counts,
        "best": _trial_json(outcome.best),
        "default": _trial_json(outcome.default),
        "default_missing": default_missing(outcome),
        "pareto_front": [record.number for record in outcome.front],
        "importances": {
            name: {
                "num_trials": each.num_trials,
                "why_not": each.why or None,
                "parameters": {
                    key: {
                        "share": one.share,
                        "num_trials": one.num_trials,
                        "conditional": one.is_conditional,
                    }
                    for key, one in each.of.items()
                },
            }
            for name, each in outcome.importances.items()
        },
        "scheduler": {
            "name": settings.scheduler,
            "domains_per_trial": outcome.num_domains,
            "domains_run": outcome.domains_run,
            "domains_saved": outcome.domains_saved,
            **({"epochs_run": run, "epochs_saved": saved} if outcome.by_epoch else {}),
            "share_saved": saved / (run + saved) if run + saved else 0.0,
        },
        "seconds": sum(seconds_of(record) or 0.0 for record in outcome.records),
    }
    return json.dumps(values, indent=1) + "\n"


def to_markdown(outcome: Outcome) -> str:
    """Content of table.md: the best trial, then all trials in the order of `ranked`."""
    settings = outcome.settings
    counts = ", ".join(f"{num} {state}" for state, num in outcome.counts.items())
    parts = [
        f"# Sweep {settings.name}",
        f"{len(outcome.records)} trials ({counts}) of {settings.preset}. {saved_words(outcome)}",
    ]
    if outcome.best is None:
        parts.append(NO_BEST)
    else:
        parts.append(f"Best: trial {outcome.best.number}.")
        if outcome.default is None:
            parts.append(f"Preset values: {default_missing(outcome)}.")
        parts.append(best_table(outcome, outcome.best).to_markdown())
    parts += ["## Trials", _trials_table(outcome).to_markdown()]
    if failed := [record for record in outcome.records if record.state == "failed"]:
        lines = [f"- trial {record.number}: {error_line(record.reason)}" for record in failed]
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


NO_BEST = "No trial has finished, so there is no best trial."


def best_table(outcome: Outcome, best: TrialRecord) -> Table:
    """Scores and parameters of the best trial next to those of the preset."""
    rows: list[tuple[str, str, str]] = []
    styles: list[str] = []
    for split in _SPLITS:
        label = "validation" if split == "validation" else "test, not used by the search"
        for each in outcome.settings.objectives:
            scores = [score_of(record, split, each.name) for record in (best, outcome.default)]
            first, second = map(format_objective, scores)
            rows.append((f"{each.name} (%), {label}", first, second))
            styles.append("bold" if split == "validation" else "dim")
    num_scores = len(rows)
    names = short_names(outcome.keys)
    for key in outcome.keys:
        sides = (best.values, outcome.preset_values)
        if not any(key in values for values in sides):
            continue
        first, second = (format_value(each[key]) if key in each else MISSING for each in sides)
        is_same = all(key in values for values in sides) and same(*(each[key] for each in sides))
        rows.append((names[key], first, second))
        styles.append("dim" if is_same else "")
    columns = (
        Column("name", "", align="left", wrap=True),
        Column("best", f"best: trial {best.number}", wrap=True),
        Column("preset", wrap=True),
    )
    return Table(columns, tuple(rows), tuple(styles), frozenset([num_scores - 1]))


def default_missing(outcome: Outcome) -> str | None:
    """Reason why no trial has the values of the preset; None if one has."""
    if outcome.default is not None:
        return None
    reason = outcome.why_no_default
    return f"outside the search space: {reason}" if reason else "trial 0 has other values"


def saved_words(outcome: Outcome) -> str:
    """Sentence on the number of domains or epochs learned, and saved by stopping trials early."""
    run, saved = outcome.progress_run, outcome.progress_saved
    learned = f"{run} {outcome.unit}s were {'trained' if outcome.by_epoch else 'learned'}"
    if outcome.settings.scheduler == "none" or not run + saved:
        return f"{learned}."
    share = 100 * saved / (run + saved)
    return f"{learned}; stopping trials early saved {saved} ({share:.0f} %)."


def _trials_table(outcome: Outcome) -> Table:
    names = short_names(outcome.keys)
    scores = [(each.name, split) for each in outcome.settings.objectives for split in _SPLITS]
    columns = [Column("trial"), Column("state", align="left")]
    columns.append(Column(f"{outcome.unit}s"))
    columns += [Column(f"{name} ({split})") for name, split in scores]
    columns += [Column("seconds"), *(Column(names[key]) for key in outcome.keys)]
    rows: list[tuple[Any, ...]] = []
    for record in ranked(outcome):
        seconds = seconds_of(record)
        rows.append(
            (
                record.number,
                record.state,
                record.last.reached(outcome.num_domains) if record.last else 0,
                *(
                    format_objective(_scores(record, split).get(name)) if record.last else None
                    for name, split in scores
                ),
                None if seconds is None else f"{seconds:.0f}",
                *(
                    format_value(record.values[key]) if key in record.values else None
                    for key in outcome.keys
                ),
            )
        )
    return Table(tuple(columns), tuple(rows))


def _trial_json(record: TrialRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "number": record.number,
        "state": record.state,
        "learned_domains": record.learned_domains,
        **(
            {"epochs": record.last.epochs} if record.last and record.last.epochs is not None else {}
        ),
        "values": dict(record.values),
        "validation": dict(_scores(record, "validation")),
        "test": dict(_scores(record, "test")),
        "seconds": seconds_of(record),
    }


def _scores(record: TrialRecord, split: str) -> Mapping[str, float | None]:
    """Newest scores of a trial on a split; empty before the first report."""
    if record.last is None:
        return {}
    return record.last.validation if split == "validation" else record.last.test


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for start in range(max(1, len(parts) - 2), -1, -1):
        end = ".".join(parts[start:])
        if not any(other == end or other.endswith(f".{end}") for other in others):
            return end
    return key


def _union(scores: Iterator[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in scores for name in each))


def _csv_value(value: Any) -> Any:
    """Numbers and text unchanged; lists, booleans and null as JSON."""
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if plain else as_text(value)
