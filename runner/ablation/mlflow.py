"""A table -> MLflow: one parent run, and a child for each row and seed that is finished.

Runs are looked up by a tag before they are created, and what has arrived unchanged is not sent
again, so the same command may be repeated at any time, after an outage of the server too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from runner.ablation.quantities import Quantities
from runner.ablation.summary import Row, TableSummary
from runner.ablation.view import to_json
from runner.config.sections import TrackingConfig
from runner.results.finished_runs import FinishedRun
from runner.results.run_folder import RunStorage
from runner.tracking.mlflow_tagged_runs import KeyedRuns, Point, digest_of, with_runs

_FILES = ("table.json", "table.csv", "table.md", "table.png", "costs.png")


def send_table(folder: Path, summary: TableSummary, tracking: TrackingConfig) -> int:
    """Sends what MLflow does not have yet of a table that is written in `folder`.

    Returns:
        How many MLflow runs were created or brought up to date.

    Raises:
        TrackingError: the server does not answer or refuses; the table itself is not touched.
    """
    artefacts = folder.parents[1] / "mlartifacts"
    return with_runs(folder, tracking, artefacts, partial(_send, folder, summary))


def _send(folder: Path, summary: TableSummary, runs: KeyedRuns) -> int:
    """Sends parent and children; returns how many runs had to be touched."""
    texts = {"title": summary.table.title, "reference": summary.table.reference}
    texts |= {"seeds": json.dumps(list(summary.seeds)), "settings": " ".join(summary.settings)}
    digest = digest_of(to_json(summary))
    name = f"table {folder.name}"
    parent, is_new = runs.open("table", name, {"table": summary.name}, digest)
    num_sent = int(is_new)
    for (row_name, seed), run in summary.runs:
        row = summary.row(row_name)
        num_sent += _send_child(runs, parent, row, seed, run, summary.quantities)
    if is_new:
        runs.log(parent, {}, _points(_parent_metrics(summary), int(time.time() * 1000)))
        for key, text in texts.items():
            runs.client.set_tag(parent, key, text)
        for file in [folder / name for name in _FILES]:
            if file.is_file():
                runs.client.log_artifact(parent, str(file))
        runs.close(parent, digest)
    return num_sent


def _send_child(
    runs: KeyedRuns, parent: str, row: Row, seed: int, run: FinishedRun, quantities: Quantities
) -> bool:
    digest = digest_of([row.name, row.label, dict(run.results)])
    tags = {"mlflow.parentRunId": parent, "learner": run.config.learner.name}
    tags |= {"git_revision": str(run.results.get("git_revision")), "run": run.folder.name}
    child, is_new = runs.open(
        f"{row.name}/{run.folder.name}", f"{row.name} seed {seed}", tags, digest
    )
    if not is_new:
        return False
    values = {each.name: row.values(each)[seed] for each in quantities.all}
    params = {"row": row.name, "seed": str(seed), "config_hash": run.config.hash}
    written_s = RunStorage(run.folder).results_file.stat().st_mtime
    runs.log(child, params, _points(values, int(written_s * 1000)))
    runs.close(child, digest)
    return True


def _points(values: Mapping[str, float | None], time_ms: int) -> list[Point]:
    return [Point(name, value, time_ms) for name, value in values.items()]


def _parent_metrics(summary: TableSummary) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    for row in summary.rows:
        for each in summary.quantities.all:
            estimate = row.estimate(each)
            metrics[f"{row.name}.{each.name}.mean"] = estimate and estimate.mean
            metrics[f"{row.name}.{each.name}.deviation"] = estimate and estimate.deviation
    return metrics
