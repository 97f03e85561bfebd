"""MLflow runs that are found again by a tag: for what is sent as a whole, and may be sent twice.

Runs are looked up before they are created, and a digest of what was sent last is kept with them, so
that the same command may be repeated at any time, after an outage of the server too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from runner.config.sections import TrackingConfig
from runner.results.run_folder import write_atomically
from runner.tracking.mlflow_client import (
    Server,
    TrackingError,
    connect,
    find_experiment,
    public_uri,
    reason,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_KEY, _DIGEST = "lifelong_reid.key", "lifelong_reid.sha256"


@dataclass(frozen=True)
class Point:
    """One value of a metric; None is not sent.

    Attributes:
        name: of the metric; signs that MLflow does not take become underlines.
        value: in the metric's own unit.
        time_ms: Unix time.
        step: on the metric's axis.
    """

    name: str
    value: float | None
    time_ms: int
    step: int = 0


class KeyedRuns:
    """The runs that one server has of a folder, by their keys."""

    def __init__(self, client: MlflowClient, experiment: str, token: str) -> None:
        self.client = client
        self._experiment = experiment
        self._token = token
        self._known = self._search()

    def open(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        digest: str,
        start_ms: int | None = None,
    ) -> tuple[str, bool]:
        """The MLflow run's id, and whether there is anything to send to it.

        Args:
            key: of the run in its folder.
            name: shown by MLflow.
            tags: that a new run has from the beginning.
            digest: of what is to be sent.
            start_ms: Unix time at which a new run began; default now.
        """
        known = self._known.get(f"{self._token}/{key}")
        if known is not None:
            return known[0], known[1] != digest
        created = self.client.create_run(
            self._experiment,
            start_time=start_ms,
            tags={**tags, _KEY: f"{self._token}/{key}"},
            run_name=name,
        )
        return created.info.run_id, True

    def close(
        self,
        run_id: str,
        digest: str,
        status: Literal["FINISHED", "FAILED"] = "FINISHED",
        end_ms: int | None = None,
    ) -> None:
        """Ends the run; last of all, as a run with this digest has everything."""
        self.client.set_terminated(run_id, status, end_ms)
        self.keep(run_id, digest)

    def keep(self, run_id: str, digest: str) -> None:
        """Says that the run has everything so far, and goes on."""
        self.client.set_tag(run_id, _DIGEST, digest)

    def log(self, run_id: str, params: Mapping[str, str], points: Sequence[Point]) -> None:
        """Sends parameters and metrics."""
        from mlflow.entities import Metric, Param

        metrics = [
            Metric(re.sub(r"[^\w\-. :]", "_", each.name)[:250], each.value, each.time_ms, each.step)
            for each in points
            if each.value is not None
        ]
        pairs = [Param(*each) for each in params.items()]
        for start in range(0, len(pairs), 100):  # MLflow's own limits
            self.client.log_batch(run_id, params=pairs[start : start + 100])
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def _search(self) -> dict[str, tuple[str, str | None]]:
        query = f"tags.`{_KEY}` LIKE '{self._token}/%'"
        known: dict[str, tuple[str, str | None]] = {}
        page: str | None = None
        while True:
            runs = self.client.search_runs([self._experiment], query, page_token=page)
            for run in runs:
                known[run.data.tags[_KEY]] = run.info.run_id, run.data.tags.get(_DIGEST)
            page = runs.token
            if not page:
                return known


def with_runs(
    folder: Path, tracking: TrackingConfig, artefacts: Path, send: Callable[[KeyedRuns], T]
) -> T:
    """Connects, and calls `send` with the runs that the server has of a folder.

    Args:
        folder: whose token, on disk before the server knows it, names it among all of a server.
        tracking: with an absolute `uri`.
        artefacts: folder of files, where the server is a database.
        send: uses the runs.

    Raises:
        TrackingError: the server does not answer or refuses.
    """
    assert tracking.uri is not None
    server = Server(
        tracking.uri, tracking.experiment, tracking.request_timeout_s, tracking.request_retries
    )
    try:
        client = connect(server)
        experiment = find_experiment(client, server, artefacts)
        return send(KeyedRuns(client, experiment, _token(folder)))
    except TrackingError:
        raise
    except Exception as error:  # MLflow, its databases and HTTP have no common base class
        raise TrackingError(f"{public_uri(tracking.uri)}: {reason(error)}") from error


def digest_of(content: Any) -> str:
    """SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _token(folder: Path) -> str:
    path = folder / "tracking.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["token"])
    token = uuid.uuid4().hex
    write_atomically(path, json.dumps({"token": token}) + "\n")
    return token
