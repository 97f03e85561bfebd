"""The only MLflow client: names, limits, batching and errors for everything that is sent to MLflow.

Run tracking (`mlflow_sender`), ablation tables and sweeps (`mlflow_tagged_runs`) build payloads and
call this client.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from runner.config.redaction import masked, masked_uri
from runner.config.sections import DATABASES, TrackingConfig
from runner.tracking.moved_database import follow_artefacts
from runner.tracking.sqlite_files import MLFLOW, sqlite_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "lifelong_reid.key"
"""Tag that holds a run's "<token>/<key>", by which it is found again."""
DIGEST_TAG = "lifelong_reid.sha256"
"""Tag that holds the digest of what was sent last."""
PARENT_TAG = "mlflow.parentRunId"

# Limits of MLflow's REST API.
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_TAGS_PER_BATCH = 100
_MAX_NAME_LENGTH = 250
MAX_TEXT_LENGTH = 4000
"""Characters of a param or tag value that every supported server accepts."""

_SQLITE = "sqlite:///"

Status: TypeAlias = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class TrackingError(RuntimeError):
    """MLflow does not answer or refuses; unsent events are still in the event log."""


class MetricPoint(NamedTuple):
    """One value of one metric.

    Attributes:
        name: metric name; the client replaces characters that MLflow refuses.
        value: in the metric's unit.
        time_ms: Unix time of the event, not of sending. A database keys metrics by (run, name,
            time, step, value), so a point that is sent twice is stored once.
        step: position on the metric's axis.
    """

    name: str
    value: float
    time_ms: int
    step: int = 0


class TrackingClient:
    """Client of one MLflow server and one experiment, which is created if it does not exist.

    Args:
        config: tracking configuration with an absolute `uri`.
        artefact_folder: folder for artefacts if the server is a database.

    Raises:
        TrackingError: the folder of a SQLite database is not writable, or the experiment was
            deleted.
    """

    def __init__(self, config: TrackingConfig, artefact_folder: Path) -> None:
        self._client = _connect(config)
        self._experiment_id = _experiment_id(self._client, config, artefact_folder)

    def find_run(self, key: str) -> str | None:
        """Id of the MLflow run with this key, or None."""
        query = f"tags.`{KEY_TAG}` = '{key}'"
        runs = self._client.search_runs([self._experiment_id], query, max_results=1)
        return runs[0].info.run_id if runs else None

    def find_runs(self, token: str) -> dict[str, tuple[str, str | None]]:
        """Id and digest of every MLflow run whose key is "<token>/<key>", by that key."""
        query = f"tags.`{KEY_TAG}` LIKE '{token}/%'"
        matches: dict[str, tuple[str, str | None]] = {}
        page: str | None = None
        while True:
            runs = self._client.search_runs([self._experiment_id], query, page_token=page)
            for run in runs:
                tags = run.data.tags
                matches[tags[KEY_TAG]] = run.info.run_id, tags.get(DIGEST_TAG)
            page = runs.token
            if not page:
                return matches

    def create_run(
        self,
        key: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
        start_ms: int | None = None,
    ) -> str:
        """Creates an MLflow run and returns its id.

        Args:
            key: value of `KEY_TAG`, "<token>/<key>".
            name: run name shown by MLflow.
            tags: tags to set at creation.
            parent: id of the parent run, if this is a nested run.
            start_ms: Unix time at which the run began; default now.
        """
        all_tags = {**(tags or {}), KEY_TAG: key}
        if parent is not None:
            all_tags[PARENT_TAG] = parent
        run = self._client.create_run(
            self._experiment_id, start_time=start_ms, tags=all_tags, run_name=name
        )
        return run.info.run_id

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Sends tags, params and metrics in batches of the sizes MLflow accepts.

        Raises:
            TrackingError: the run was deleted on the server.
        """
        from mlflow.entities import Metric, Param, RunTag

        all_tags = [RunTag(name, value) for name, value in (tags or {}).items()]
        valid_params = {valid_name(name): value for name, value in (params or {}).items()}
        all_params = [Param(name, value) for name, value in valid_params.items()]
        points = [Metric(valid_name(each.name), *each[1:]) for each in metrics]
        with _existing(run_id):
            for start in range(0, len(all_tags), _TAGS_PER_BATCH):
                self._client.log_batch(run_id, tags=all_tags[start : start + _TAGS_PER_BATCH])
            for start in range(0, len(all_params), _PARAMS_PER_BATCH):
                self._client.log_batch(run_id, params=all_params[start : start + _PARAMS_PER_BATCH])
            for start in range(0, len(points), _METRICS_PER_BATCH):
                self._client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_BATCH])

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Uploads a file into the given folder of the run's artefacts (default: the top)."""
        self._client.log_artifact(run_id, str(file), folder)

    def set_status(self, run_id: str, status: Status, time_ms: int | None = None) -> None:
        """Sets the status; all but "RUNNING" end the run at `time_ms` (default now).

        Raises:
            TrackingError: the run was deleted on the server.
        """
        with _existing(run_id):
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, time_ms)


@contextlib.contextmanager
def server_errors(config: TrackingConfig, advice: str = "") -> Iterator[None]:
    """Converts every exception into a TrackingError that names the server and the reason.

    Args:
        config: tracking configuration with a `uri`.
        advice: appended to the message.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # MLflow, its databases and HTTP have no common base class
        raise TrackingError(error_message(config, error) + advice) from error


def error_message(config: TrackingConfig, error: BaseException) -> str:
    """The server's URI without credentials, and a one-line reason for the error."""
    return f"{public_uri(config.uri or '')}: {_reason(error)}"


def public_uri(uri: str) -> str:
    """`uri` without user name, password and secret parameters."""
    return re.sub(r"://[^/]*@", "://", masked_uri(uri))


def valid_name(name: str) -> str:
    """`name` with the characters MLflow refuses replaced by "_", cut to 250 characters.

    MLflow groups names by their slashes, and refuses empty parts and those of dots alone.
    """
    parts = [re.sub(r"[^\w\-. :]", "_", part) for part in name.split("/")]
    return "/".join(part if part.strip(".") else "_" for part in parts)[:_MAX_NAME_LENGTH]


def database_file(uri: str) -> Path | None:
    """Path of a SQLite database, or None for any other server."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def resolve_uri(uri: str, base: Path) -> str:
    """`uri`, with the file of a relative `sqlite:///` URI resolved against an absolute folder."""
    return f"{_SQLITE}{base / uri.removeprefix(_SQLITE)}" if uri.startswith(_SQLITE) else uri


def file_digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _reason(error: BaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, (ConnectionError, TimeoutError, socket.gaierror)):
            return masked(f"no answer ({link.strerror or link})")
        link = link.__cause__ or link.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return masked(lines[0])[:300]


@contextlib.contextmanager
def _existing(run_id: str) -> Iterator[None]:
    """Converts MLflow's error for a run that was deleted on the server."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(f"MLflow no longer has run {run_id}") from error


def _connect(config: TrackingConfig) -> MlflowClient:
    assert config.uri is not None
    # MLflow reads these only from the environment, some of them at import time.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.request_timeout_s)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(config.request_retries)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    database = database_file(config.uri)
    if database is not None:
        _check_database(database)
        follow_artefacts(database)

    from mlflow import MlflowClient  # slow to import

    # MLflow logs the creation of a database at length, and urllib3 logs every HTTP retry again.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(config.uri)


def _check_database(database: Path) -> None:
    # Without these checks MLflow retries opening the file for minutes, or changes foreign tables.
    if problem := sqlite_problem(database, MLFLOW):
        raise TrackingError(
            f"tracking.uri: {database} {problem}; it is unchanged; set tracking.uri to another file"
        )
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(f"cannot create the folder of {database}: {error.strerror}") from error
    writable = database if database.exists() else database.parent
    if not os.access(writable, os.W_OK):
        raise TrackingError(f"{writable} is not writable; set tracking.uri")


def _experiment_id(client: MlflowClient, config: TrackingConfig, artefact_folder: Path) -> str:
    """Id of the configured experiment, which is created if the server has none of this name."""
    from mlflow.exceptions import MlflowException

    assert config.uri is not None
    # With a database, MLflow would store artefacts below the working directory.
    location = artefact_folder.as_uri() if config.uri.startswith(DATABASES) else None
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        try:
            return client.create_experiment(config.experiment, artifact_location=location)
        except MlflowException:  # another process created it in the meantime
            experiment = client.get_experiment_by_name(config.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment {config.experiment!r} was deleted; restore it, or set "
            "tracking.experiment to another name"
        )
    return experiment.experiment_id
