"""A table -> MLflow: one parent run, and a child for each row and seed that is finished.

Runs are looked up by a tag before they are created, and what has arrived unchanged is not sent
again, so the same command may be repeated at any time, after an outage of the server too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.ablation.quantities import Quantities
from runner.ablation.summary import Row, TableSummary
from runner.ablation.views import to_json
from runner.finished import FinishedRun
from runner.mlflow_sender import (
    Server,
    TrackingError,
    connect,
    find_experiment,
    public_uri,
    reason,
)
from runner.storage import RunStorage, write_atomically
from runner.tracking import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_KEY, _DIGEST = "lifelong_reid.key", "lifelong_reid.sha256"
_FILES = ("table.json", "table.csv", "table.md", "table.png", "costs.png")


def send_table(folder: Path, summary: TableSummary, tracking: TrackingConfig) -> int:
    """Sends what MLflow does not have yet of a table that is written in `folder`.

    Returns:
        How many MLflow runs were created or brought up to date.

    Raises:
        TrackingError: the server does not answer or refuses; the table itself is not touched.
    """
    assert tracking.uri is not None
    server = Server(
        tracking.uri, tracking.experiment, tracking.request_timeout_s, tracking.request_retries
    )
    try:
        client = connect(server)
        experiment = find_experiment(client, server, folder.parents[1] / "mlartifacts")
        return _Sender(client, experiment, _token(folder)).send(folder, summary)
    except TrackingError:
        raise
    except Exception as error:  # MLflow, its databases and HTTP have no common base class
        raise TrackingError(f"{public_uri(tracking.uri)}: {reason(error)}") from error


class _Sender:
    """The runs that one server has of a table, by their keys."""

    def __init__(self, client: MlflowClient, experiment: str, token: str) -> None:
        self._client = client
        self._experiment = experiment
        self._token = token
        self._known = self._search()

    def send(self, folder: Path, summary: TableSummary) -> int:
        """Sends parent and children; returns how many runs had to be touched."""
        texts = {"title": summary.table.title, "reference": summary.table.reference}
        texts |= {"seeds": json.dumps(list(summary.seeds)), "settings": " ".join(summary.settings)}
        digest = _digest(to_json(summary))
        name = f"table {folder.name}"
        parent, is_new = self._open("table", name, {"table": summary.name}, digest)
        num_sent = int(is_new)
        for (row_name, seed), run in summary.runs:
            num_sent += self._send_child(
                parent, summary.row(row_name), seed, run, summary.quantities
            )
        if is_new:
            self._log(parent, {}, _parent_metrics(summary), int(time.time() * 1000))
            for key, text in texts.items():
                self._client.set_tag(parent, key, text)
            for file in [folder / name for name in _FILES]:
                if file.is_file():
                    self._client.log_artifact(parent, str(file))
            self._close(parent, digest)
        return num_sent

    def _send_child(
        self, parent: str, row: Row, seed: int, run: FinishedRun, quantities: Quantities
    ) -> bool:
        digest = _digest([row.name, row.label, dict(run.results)])
        tags = {"mlflow.parentRunId": parent, "learner": run.config.learner.name}
        tags |= {"git_revision": str(run.results.get("git_revision")), "run": run.folder.name}
        child, is_new = self._open(
            f"{row.name}/{run.folder.name}", f"{row.name} seed {seed}", tags, digest
        )
        if not is_new:
            return False
        values = {each.name: row.values(each)[seed] for each in quantities.all}
        params = {"row": row.name, "seed": str(seed), "config_hash": run.config.hash}
        written_s = RunStorage(run.folder).results_file.stat().st_mtime
        self._log(child, params, values, int(written_s * 1000))
        self._close(child, digest)
        return True

    def _open(self, key: str, name: str, tags: Mapping[str, str], digest: str) -> tuple[str, bool]:
        """The MLflow run's id, and whether there is anything to send to it."""
        known = self._known.get(f"{self._token}/{key}")
        if known is not None:
            return known[0], known[1] != digest
        created = self._client.create_run(
            self._experiment, tags={**tags, _KEY: f"{self._token}/{key}"}, run_name=name
        )
        return created.info.run_id, True

    def _close(self, run_id: str, digest: str) -> None:
        # Last of all: a run with this tag has everything.
        self._client.set_terminated(run_id, "FINISHED")
        self._client.set_tag(run_id, _DIGEST, digest)

    def _log(
        self,
        run_id: str,
        params: Mapping[str, str],
        values: Mapping[str, float | None],
        time_ms: int,
    ) -> None:
        from mlflow.entities import Metric, Param

        metrics = [
            Metric(re.sub(r"[^\w\-. :]", "_", name)[:250], value, time_ms, 0)
            for name, value in values.items()
            if value is not None
        ]
        self._client.log_batch(run_id, params=[Param(*each) for each in params.items()])
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def _search(self) -> dict[str, tuple[str, str | None]]:
        query = f"tags.`{_KEY}` LIKE '{self._token}/%'"
        known: dict[str, tuple[str, str | None]] = {}
        page: str | None = None
        while True:
            runs = self._client.search_runs([self._experiment], query, page_token=page)
            for run in runs:
                known[run.data.tags[_KEY]] = run.info.run_id, run.data.tags.get(_DIGEST)
            page = runs.token
            if not page:
                return known


def _parent_metrics(summary: TableSummary) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    for row in summary.rows:
        for each in summary.quantities.all:
            estimate = row.estimate(each)
            metrics[f"{row.name}.{each.name}.mean"] = estimate and estimate.mean
            metrics[f"{row.name}.{each.name}.deviation"] = estimate and estimate.deviation
    return metrics


def _token(folder: Path) -> str:
    """Names this folder's table among all of a server; on disk before the server knows it."""
    path = folder / "tracking.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["token"])
    token = uuid.uuid4().hex
    write_atomically(path, json.dumps({"token": token}) + "\n")
    return token


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
