"""Sends an ablation table to MLflow: one parent run, and a child run per finished row and seed.

Runs are looked up by a tag before they are created, and unchanged data are not sent again. The
command can therefore be repeated at any time, also after an outage of the server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from runner.ablation.quantities import Quantities
from runner.ablation.summary import Row, TableSummary
from runner.ablation.view import to_json
from runner.config.sections import TrackingConfig
from runner.results.finished_runs import FinishedRun
from runner.results.run_folder import RunStorage
from runner.tracking.mlflow_client import MetricPoint
from runner.tracking.mlflow_tagged_runs import TaggedRuns, digest_of, tagged_runs

_FILES = ("table.json", "table.csv", "table.md", "table.png", "costs.png", "efficiency.png")


def send_table(folder: Path, summary: TableSummary, tracking: TrackingConfig) -> int:
    """Sends everything of the table in `folder` that MLflow does not have yet.

    Returns:
        Number of MLflow runs created or updated.

    Raises:
        TrackingError: the server does not answer or refuses; the table itself is unchanged.
    """
    with tagged_runs(folder, tracking, folder.parents[1] / "mlartifacts") as runs:
        digest = digest_of(to_json(summary))
        name = f"table {folder.name}"
        parent, is_outdated = runs.open("table", name, {"table": summary.name}, digest)
        num_sent = sum(
            _send_child(runs, parent, summary.row(row), seed, run, summary.quantities)
            for (row, seed), run in summary.runs
        )
        if is_outdated:
            _send_parent(runs, parent, folder, summary)
            runs.mark_sent(parent, digest)
    return num_sent + is_outdated


def _send_parent(runs: TaggedRuns, parent: str, folder: Path, summary: TableSummary) -> None:
    metrics = _points(_parent_metrics(summary), int(time.time() * 1000))
    tags = {
        "title": summary.table.title,
        "reference": summary.table.reference,
        "seeds": json.dumps(list(summary.seeds)),
        "settings": " ".join(summary.settings),
    }
    runs.client.log(parent, metrics=metrics, tags=tags)
    for name in _FILES:
        if (folder / name).is_file():
            runs.client.log_file(parent, folder / name)


def _send_child(
    runs: TaggedRuns, parent: str, row: Row, seed: int, run: FinishedRun, quantities: Quantities
) -> bool:
    digest = digest_of([row.name, row.label, dict(run.results)])
    tags = {
        "learner": run.config.learner.name,
        "git_revision": str(run.results.get("git_revision")),
        "run": run.folder.name,
    }
    key, name = f"{row.name}/{run.folder.name}", f"{row.name} seed {seed}"
    child, is_outdated = runs.open(key, name, tags, digest, parent=parent)
    if not is_outdated:
        return False
    values = {each.name: row.values(each)[seed] for each in quantities.all}
    params = {"row": row.name, "seed": str(seed), "config_hash": run.config.hash}
    written_s = RunStorage(run.folder).results_file.stat().st_mtime
    runs.client.log(child, metrics=_points(values, int(written_s * 1000)), params=params)
    runs.mark_sent(child, digest)
    return True


def _points(values: Mapping[str, float | None], time_ms: int) -> list[MetricPoint]:
    return [
        MetricPoint(name, value, time_ms) for name, value in values.items() if value is not None
    ]


def _parent_metrics(summary: TableSummary) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    for row in summary.rows:
        for each in summary.quantities.all:
            estimate = row.estimate(each)
            metrics[f"{row.name}.{each.name}.mean"] = estimate and estimate.mean
            metrics[f"{row.name}.{each.name}.deviation"] = estimate and estimate.deviation
    return metrics
