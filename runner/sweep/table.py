"""A sweep's trials as text: CSV, JSON, Markdown, and short names of parameters."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.sweep.outcome import Outcome
from runner.sweep.parameters import as_text
from runner.sweep.trial_records import TrialRecord

_RANKS = ("finished", "stopped", "running", "failed")


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted path that no other path ends with, of two parts at least.

    The first part, nearly always `learner`, stands only where nothing else tells two apart.
    """
    return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def said(value: Any) -> str:
    """A parameter's value for reading: four digits of a fraction, text without quotes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(said, value))}]"
    return value if isinstance(value, str) else as_text(value)


def seconds_of(record: TrialRecord) -> float | None:
    """A trial's own time: what it reported, else from its beginning to its end."""
    if record.last is not None:
        return record.last.seconds
    if record.began is None or record.ended is None:
        return None
    return record.ended - record.began


def ranked(outcome: Outcome) -> list[TrialRecord]:
    """Finished trials from best to worst, then stopped ones by domains, running, failed."""
    objective = outcome.objective

    def order(record: TrialRecord) -> tuple[int, int, float]:
        value = objective.of(record.last) if record.last else None
        learned = record.last.learned_domains if record.last else 0
        signed = float("inf") if value is None else (-value if objective.mode == "max" else value)
        return _RANKS.index(record.state), -learned, signed

    return sorted(outcome.records, key=order)


def to_csv(outcome: Outcome) -> str:
    """A row per trial with unrounded numbers; empty where there is none."""
    reports = [record.last for record in outcome.records if record.last]
    names = {
        split: _union(
            report.validation if split == "validation" else report.test for report in reports
        )
        for split in ("validation", "test")
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    objectives = outcome.settings.objectives
    heading = ["number", "state", "learned_domains", *(each.name for each in objectives)]
    heading += [f"{split}.{name}" for split, of in names.items() for name in of]
    writer.writerow([*heading, "seconds", "reason", *outcome.keys])
    for record in outcome.records:
        last = record.last
        scores = {"validation": last.validation, "test": last.test} if last else {}
        row: list[Any] = [record.number, record.state, last.learned_domains if last else 0]
        row += [each.of(last) if last else None for each in objectives]
        row += [scores.get(split, {}).get(name) for split, of in names.items() for name in of]
        values = [record.values.get(key) for key in outcome.keys]
        present = [key in record.values for key in outcome.keys]
        row += [seconds_of(record), record.reason]
        row += [_cell(value) if here else None for value, here in zip(values, present, strict=True)]
        writer.writerow(row)
    return stream.getvalue()


def to_json(outcome: Outcome) -> str:
    """summary.json: best, default, counts, importances, and what the scheduler saved."""
    settings = outcome.settings
    run, saved = outcome.domains_run, outcome.domains_saved
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
            "domains_run": run,
            "domains_saved": saved,
            "share_saved": saved / (run + saved) if run + saved else 0.0,
        },
        "seconds": sum(seconds_of(record) or 0.0 for record in outcome.records),
    }
    return json.dumps(values, indent=1) + "\n"


def default_missing(outcome: Outcome) -> str | None:
    """Why no trial shows the configuration's own values; None if one does."""
    if outcome.default is not None:
        return None
    reason = outcome.why_not_own
    return f"outside the search space: {reason}" if reason else "trial 0 has other values"


def to_markdown(outcome: Outcome) -> str:
    """table.md: what came out, then every trial from best to worst."""
    settings, names = outcome.settings, short_names(outcome.keys)
    objectives = [each.name for each in settings.objectives]
    counts = ", ".join(f"{num} {state}" for state, num in outcome.counts.items())
    lines = [f"# Sweep {settings.name}", ""]
    lines += [
        f"{len(outcome.records)} trials ({counts}) of {settings.preset}. {saved_words(outcome)}"
    ]
    lines += ["", *_best_lines(outcome), "", "## Trials", ""]
    scores = [f"{name} ({split})" for name in objectives for split in ("validation", "test")]
    parameters = [names[key] for key in outcome.keys]
    lines += _rows([["trial", "state", "domains", *scores, "seconds", *parameters]])
    lines += [f"|{'---|' * (4 + len(scores) + len(parameters))}"]
    for record in ranked(outcome):
        last, seconds = record.last, seconds_of(record)
        cells = [str(record.number), record.state]
        cells += [f"{last.learned_domains if last else 0}/{outcome.num_domains}"]
        for name in objectives:
            cells += (
                [percent(split.get(name)) for split in (last.validation, last.test)]
                if last
                else ["", ""]
            )
        cells += ["" if seconds is None else f"{seconds:.0f}"]
        cells += [said(record.values[key]) if key in record.values else "" for key in outcome.keys]
        lines += _rows([cells])
    if failed := [record for record in outcome.records if record.state == "failed"]:
        lines += ["", "## Failed", ""]
        lines += [f"- trial {record.number}: {first_line(record.reason)}" for record in failed]
    return "\n".join(lines) + "\n"


def percent(value: float | None) -> str:
    """A score in percent; a dot where there is none."""
    return "·" if value is None else f"{value:.2f}"


def first_line(reason: str | None) -> str:
    """Of a failure: its last line if it is a traceback, else its first."""
    lines = (reason or "").strip().splitlines()
    if not lines:
        return "no reason is known"
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _best_lines(outcome: Outcome) -> list[str]:
    best, default = outcome.best, outcome.default
    if best is None:
        return ["No trial has finished, so there is no best one."]
    lines = [f"Best: trial {best.number}."]
    if default is None:
        lines += [f"The preset's own values: {default_missing(outcome)}."]
    own = outcome.own
    names = short_names(outcome.keys)
    lines += ["", *_rows([["", f"trial {best.number}", "preset"]]), "|---|---|---|"]
    for each in outcome.settings.objectives:
        for split in ("validation", "test"):
            mine, others = score_of(best, split, each.name), score_of(default, split, each.name)
            lines += _rows([[f"{each.name} ({split})", percent(mine), percent(others)]])
    for key, value in best.values.items():
        lines += _rows([[names.get(key, key), said(value), said(own[key]) if key in own else "·"]])
    return lines


def score_of(record: TrialRecord | None, split: str, name: str) -> float | None:
    """A finished trial's score on `validation` or `test`; None of all others."""
    if record is None or record.last is None or record.state != "finished":
        return None
    return (record.last.validation if split == "validation" else record.last.test).get(name)


def saved_words(outcome: Outcome) -> str:
    """How much was learned, and how much stopping trials early saved."""
    run, saved = outcome.domains_run, outcome.domains_saved
    if outcome.settings.scheduler == "none" or not run + saved:
        return f"{run} domains were learned."
    share = 100 * saved / (run + saved)
    return f"{run} domains were learned; stopping trials early saved {saved} ({share:.0f} %)."


def _trial_json(record: TrialRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    last = record.last
    return {
        "number": record.number,
        "state": record.state,
        "learned_domains": last.learned_domains if last else 0,
        "values": dict(record.values),
        "validation": dict(last.validation) if last else {},
        "test": dict(last.test) if last else {},
        "seconds": seconds_of(record),
    }


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for start in range(max(1, len(parts) - 2), -1, -1):
        end = ".".join(parts[start:])
        if not any(other == end or other.endswith(f".{end}") for other in others):
            return end
    return key


def _union(scores: Iterator[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in scores for name in each))


def _cell(value: Any) -> Any:
    """Numbers and text as they are; lists, truth values and null as JSON."""
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if plain else as_text(value)


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
