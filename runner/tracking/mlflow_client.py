"""Sends one run's spool to one MLflow server, and remembers what arrived.

Sending twice what a crash left in doubt is harmless: metric points carry the time of their event,
and MLflow's databases store a point of the same run, name, time, step and value once; MLflow runs
are looked up, before they are created, by a token that was on disk first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.sections import DATABASES
from runner.tracking.event_log import read_events
from runner.tracking.mlflow_payloads import PARENT, Delivery, RunHistory

if TYPE_CHECKING:
    from mlflow import MlflowClient


_SLICE_BYTES = 256 * 1024  # so much of the spool is in doubt after a crash: some 600 iterations
_METRICS_PER_BATCH = 1000  # MLflow's own limits
_PARAMS_PER_BATCH = 100
_ARTEFACTS = ("config.yaml", "protocol.lock.json", "results.json", "quarantine.jsonl")


class TrackingError(RuntimeError):
    """Tracking cannot go on now; everything that was not sent is still in the spool."""


@dataclass
class TrackingState:
    """What one server has of the run; kept in the run folder's tracking.json, by server.

    Attributes:
        token: names this run's spool among all runs of the server.
        offset: bytes of the spool that have arrived.
        runs: MLflow run id by RunHistory's key.
        artefacts: SHA-256 of what was uploaded, by file name.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, run_folder: Path, uri: str) -> TrackingState:
        """The state of this server, new where it has seen nothing of the run.

        Raises:
            TrackingError: tracking.json cannot be understood.
        """
        saved = _read_states(run_folder).get(public_uri(uri))
        return cls() if saved is None else cls(**saved)

    def save(self, run_folder: Path, uri: str) -> None:
        """Replaces this server's part of tracking.json in one step."""
        states = _read_states(run_folder) | {public_uri(uri): asdict(self)}
        path = run_folder / "tracking.json"
        partial = path.with_name("tracking.json.partial")
        partial.write_text(json.dumps(states, indent=2) + "\n")
        partial.replace(path)


@dataclass(frozen=True)
class Server:
    """Which MLflow, and how patient to be with it (see TrackingConfig)."""

    uri: str
    experiment: str
    request_timeout_s: int
    request_retries: int


class SpoolSender:
    """Sends slices of a run's spool until none is left; holds the run's tracking lock till `close`.

    After an error the same call may be repeated: it goes on with what did not arrive.

    Raises:
        TrackingError: another process is sending this run.
    """

    def __init__(self, run_folder: Path, server: Server) -> None:
        self.num_events = 0
        self.num_metrics = 0
        self.num_artefacts = 0
        self._run_folder = run_folder
        self._spool = run_folder / "events.jsonl"
        self._server = server
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._unsent: tuple[list[Delivery], int, int] | None = None
        self._lock = _lock(run_folder)
        self._state = TrackingState.load(run_folder, server.uri)
        self._history = RunHistory()
        self._recall()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the parent run, None before it exists."""
        return self._state.runs.get(PARENT)

    def close(self) -> None:
        """Lets another process send this run."""
        os.close(self._lock)

    def send_slice(self) -> bool:
        """Sends the next part of the spool; False if there is none."""
        if self._unsent is None:
            part = read_events(self._spool, self._state.offset, _SLICE_BYTES)
            if part.offset == self._state.offset:
                return False
            self._unsent = self._history.take(part.events), len(part.events), part.offset
        deliveries, num_events, offset = self._unsent
        for delivery in deliveries:
            self._deliver(delivery)
        self._unsent = None
        self._state.offset = offset
        self._save()
        self.num_events += num_events
        self.num_metrics += sum(len(delivery.metrics) for delivery in deliveries)
        return True

    def send_artefacts(self) -> None:
        """Uploads the run's files and pictures that are new or have changed."""
        if self.run_id is None:
            return
        files = [self._run_folder / name for name in _ARTEFACTS]
        for path in [*files, *sorted(self._run_folder.glob("*.png"))]:
            if not path.exists():
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if self._state.artefacts.get(path.name) != digest:
                self._connected().log_artifact(self.run_id, str(path))
                self._state.artefacts[path.name] = digest
                self._save()
                self.num_artefacts += 1

    def _recall(self) -> None:
        """Folds what arrived earlier, so that nothing of it is sent under another time."""
        offset = 0
        while offset < self._state.offset:
            limit = min(_SLICE_BYTES, self._state.offset - offset)
            part = read_events(self._spool, offset, limit)
            if part.offset == offset:
                raise TrackingError(
                    f"{self._spool} is shorter than what was sent of it; it is another run's. "
                    f"Delete {self._run_folder / 'tracking.json'} to send it as a new run"
                )
            self._history.take(part.events)
            offset = part.offset

    def _deliver(self, delivery: Delivery) -> None:
        from mlflow.exceptions import MlflowException

        run_id = self._run_id(delivery.run, delivery)
        try:
            self._log(run_id, delivery)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise TrackingError(
                f"MLflow has no run {run_id} any more; delete "
                f"{self._run_folder / 'tracking.json'} to send the whole run again as a new one"
            ) from error

    def _log(self, run_id: str, delivery: Delivery) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client = self._connected()
        params = [Param(name, value) for name, value in delivery.params.items()]
        tags = [RunTag(name, value) for name, value in delivery.tags.items()]
        metrics = [Metric(name, value, time, step) for name, value, time, step in delivery.metrics]
        if tags:
            client.log_batch(run_id, tags=tags)
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH])
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
        if delivery.status == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        elif delivery.status is not None:
            client.set_terminated(run_id, delivery.status, delivery.status_time_ms)

    def _run_id(self, run: str, delivery: Delivery) -> str:
        if run in self._state.runs:
            return self._state.runs[run]
        tags = {"lifelong_reid.key": f"{self._state.token}/{run}"}
        if run != PARENT:
            tags["mlflow.parentRunId"] = self._run_id(PARENT, delivery)
        self._save()  # the token must be on disk before the server knows it
        client = self._connected()
        query = f"tags.`lifelong_reid.key` = '{tags['lifelong_reid.key']}'"
        created = client.search_runs([self._experiment_id], query, max_results=1)
        name = self._run_folder.name if run == PARENT else run
        found = (
            created[0]
            if created
            else client.create_run(
                self._experiment_id, start_time=delivery.time_ms, tags=tags, run_name=name
            )
        )
        self._state.runs[run] = found.info.run_id
        self._save()
        return found.info.run_id

    def _connected(self) -> MlflowClient:
        if self._client is None:
            client = connect(self._server)
            self._experiment_id = find_experiment(
                client, self._server, self._run_folder.absolute().parent / "mlartifacts"
            )
            self._client = client
        return self._client

    def _save(self) -> None:
        self._state.save(self._run_folder, self._server.uri)


def public_uri(uri: str) -> str:
    """`uri` without user name and password."""
    return re.sub(r"://[^/]*@", "://", uri)


def reason(error: BaseException) -> str:
    """Why a server could not be reached or refused, in one short line."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, (ConnectionError, TimeoutError, socket.gaierror)):
            return f"no answer ({link.strerror or link})"
        link = link.__cause__ or link.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def connect(server: Server) -> MlflowClient:
    """A client of the server, which has not been asked anything yet.

    Raises:
        TrackingError: the folder of a SQLite database cannot be written.
    """
    # MLflow reads these from the environment alone, some of them while it is imported.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(server.request_timeout_s)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(server.request_retries)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if server.uri.startswith("sqlite:///"):
        _check_database_folder(Path(server.uri.removeprefix("sqlite:///").partition("?")[0]))

    from mlflow import MlflowClient

    # Creating a database is announced at length, and every HTTP retry once more by urllib3.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(server.uri)


def _check_database_folder(database: Path) -> None:
    # MLflow itself would try to open the file for minutes.
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(f"cannot create the folder of {database}: {error.strerror}") from error
    writable = database if database.exists() else database.parent
    if not os.access(writable, os.W_OK):
        raise TrackingError(f"{writable} is not writable; set tracking.uri")


def find_experiment(client: MlflowClient, server: Server, artefacts: Path) -> str:
    """The id of the server's experiment, which is created if it has none of this name.

    Args:
        client: what `connect` gave.
        server: which experiment.
        artefacts: folder of files, where the server is a database.

    Raises:
        TrackingError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    # A database has no idea where files go, and would put them below the working directory.
    location = artefacts.as_uri() if server.uri.startswith(DATABASES) else None
    found = client.get_experiment_by_name(server.experiment)
    if found is None:
        try:
            return client.create_experiment(server.experiment, artifact_location=location)
        except MlflowException:  # another run was first
            found = client.get_experiment_by_name(server.experiment)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment {server.experiment!r} was deleted; restore it, or set "
            "tracking.experiment to another name"
        )
    return found.experiment_id


def _lock(run_folder: Path) -> int:
    descriptor = os.open(run_folder / ".tracking.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise TrackingError(
            f"{run_folder.name} is being sent by another process, which also sends the rest"
        ) from error
    except OSError:  # a file system without locks: one process a run is then up to the user
        pass
    return descriptor


def _read_states(run_folder: Path) -> dict[str, Any]:
    path = run_folder / "tracking.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise TrackingError(
            f"{path} is not JSON ({error}); delete it to send the whole run again as a new one"
        ) from error
