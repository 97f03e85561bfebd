"""Markdown description of a run, which MLflow shows above its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.results.format import format_score
from runner.results.table import Column, Table
from runner.tracking.event_log import Event, as_number
from runner.tracking.mlflow_client import MAX_TEXT_LENGTH

NOTE_TAG = "mlflow.note.content"
"""Tag whose value MLflow shows as the description of a run."""

_COLUMNS = (
    Column("domain", align="left"),
    Column("mAP", format=format_score),
    Column("R1", format=format_score),
)


def run_note(
    run: Event,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> str:
    """Describes a run.

    Args:
        run: its event `run`.
        scores: scores after the last domain, by domain; None before the end.
        summary: averages at the end of training.
    """
    seen, unseen = list(run.get("seen") or []), list(run.get("unseen") or [])
    lines = [
        f"**{run.get('learner')}** on **{run.get('benchmark')}**, seed {run.get('seed')}, "
        f"preset `{run.get('preset')}`",
        f"Learned in order: {', '.join(seen)}. Only tested: {', '.join(unseen) or 'none'}.",
    ]
    if scores is not None and summary is not None:
        forgetting = format_score(as_number(summary.get("forgetting_mAP")))
        lines += [_table(seen, unseen, scores, summary), f"Forgetting (mAP): {forgetting}"]
    return "\n\n".join(lines)[:MAX_TEXT_LENGTH]


def _table(
    seen: list[str],
    unseen: list[str],
    scores: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> str:
    rows: list[tuple[str, float | None, float | None]] = []
    for kind, domains in (("seen", seen), ("unseen", unseen)):
        for domain in domains:
            values = scores.get(domain, {})
            rows.append((domain, as_number(values.get("mAP")), as_number(values.get("R1"))))
        if domains:
            average = as_number(summary.get(f"{kind}_mAP")), as_number(summary.get(f"{kind}_R1"))
            rows.append((f"**{kind} average**", *average))
    return Table(_COLUMNS, tuple(rows)).to_markdown()
