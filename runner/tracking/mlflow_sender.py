"""Sends one run's event log to one MLflow server and records what has arrived.

Sending again after a crash is harmless: metric points carry the time of their event, and MLflow's
databases store a point of the same run, name, time, step and value once. MLflow runs are looked up
before they are created, by a token that is on disk first.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.config.sections import TrackingConfig
from runner.results.run_folder import write_atomically
from runner.tracking.event_log import read_events
from runner.tracking.mlflow_client import TrackingClient, TrackingError, file_digest, public_uri
from runner.tracking.mlflow_payloads import PARENT, Payload, RunHistory

# Bytes of the event log sent between two saves of tracking.json: about 150 iterations, which is
# what a killed `sync` sends again.
_SLICE_BYTES = 64 * 1024
_ARTEFACTS = (
    "config.yaml",
    "protocol.lock.json",
    "results.json",
    "quarantine.jsonl",
    "report.html",
)


@dataclass
class TrackingState:
    """What one server has received of the run; stored by server in the run's tracking.json.

    Attributes:
        token: identifies this run's event log among all runs of the server.
        offset: bytes of the event log that have arrived.
        runs: MLflow run id by RunHistory's key.
        artefacts: SHA-256 of each uploaded file, by file name.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load_all(cls, run_folder: Path) -> dict[str, TrackingState]:
        """Loads the states of all servers by public URI.

        Raises:
            TrackingError: tracking.json is not valid JSON.
        """
        return {uri: cls(**saved) for uri, saved in _read_states(run_folder).items()}

    @classmethod
    def load(cls, run_folder: Path, uri: str) -> TrackingState:
        """Loads the state of this server; a new state if nothing was sent to it yet.

        Raises:
            TrackingError: tracking.json is not valid JSON.
        """
        return cls.load_all(run_folder).get(public_uri(uri)) or cls()

    def save(self, run_folder: Path, uri: str) -> None:
        """Replaces this server's entry of tracking.json atomically."""
        states = _read_states(run_folder) | {public_uri(uri): asdict(self)}
        write_atomically(run_folder / "tracking.json", json.dumps(states, indent=2) + "\n")


class EventSender:
    """Sends a run's event log slice by slice; holds the run's tracking lock until `close`.

    After an error, repeat the call: it continues with what has not arrived.

    Raises:
        TrackingError: another process is sending this run.
    """

    def __init__(self, run_folder: Path, config: TrackingConfig) -> None:
        self.num_events = 0
        self.num_metrics = 0
        self.num_artefacts = 0
        self._run_folder = run_folder
        self._event_log = run_folder / "events.jsonl"
        self._config = config
        self._uri = config.uri or ""
        self._client: TrackingClient | None = None
        self._unsent: tuple[list[Payload], int, int] | None = None
        self._history = RunHistory()
        self._lock = _lock(run_folder)
        try:
            self._state = self._known_state() or TrackingState()
            self._replay()
        except BaseException:
            self.close()
            raise

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the parent run, None before it exists."""
        return self._state.runs.get(PARENT)

    def close(self) -> None:
        """Releases the run's tracking lock."""
        os.close(self._lock)

    def send_slice(self) -> bool:
        """Sends the next slice of the event log; returns False if there is none."""
        if self._unsent is None:
            part = read_events(self._event_log, self._state.offset, _SLICE_BYTES)
            if part.offset == self._state.offset:
                return False
            self._unsent = self._history.take(part.events), len(part.events), part.offset
        payloads, num_events, offset = self._unsent
        for payload in payloads:
            self._send(payload)
        self._unsent = None
        self._state.offset = offset
        self._save()
        self.num_events += num_events
        self.num_metrics += sum(len(payload.metrics) for payload in payloads)
        return True

    def send_artefacts(self) -> None:
        """Uploads the run's files and plots that are new or have changed."""
        if self.run_id is None:
            return
        files = [self._run_folder / name for name in _ARTEFACTS]
        for path in [*files, *sorted(self._run_folder.glob("*.png"))]:
            if not path.exists():
                continue
            digest = file_digest(path)
            if self._state.artefacts.get(path.name) != digest:
                self._connected().log_file(self.run_id, path)
                self._state.artefacts[path.name] = digest
                self._save()
                self.num_artefacts += 1

    def _known_state(self) -> TrackingState | None:
        """State of this server; None if nothing was sent to it.

        A server with another URI than before is asked for the run: the folder with the database may
        have been moved or copied, and a server may have several names.
        """
        states = TrackingState.load_all(self._run_folder)
        if state := states.get(public_uri(self._uri)):
            return state
        for state in states.values():
            if self._connected().find_run(f"{state.token}/{PARENT}") == state.runs.get(PARENT):
                return state
        return None

    def _replay(self) -> None:
        """Passes events that were sent earlier through the history, so none is sent again."""
        offset = 0
        while offset < self._state.offset:
            limit = min(_SLICE_BYTES, self._state.offset - offset)
            part = read_events(self._event_log, offset, limit)
            if part.offset == offset:
                raise TrackingError(
                    f"{self._event_log} is shorter than the part already sent, so it belongs to "
                    f"another run; delete {self._run_folder / 'tracking.json'} to send it as a "
                    "new run"
                )
            self._history.take(part.events)
            offset = part.offset

    def _send(self, payload: Payload) -> None:
        client = self._connected()
        run_id = self._run_id(payload.run, payload.time_ms)
        try:
            client.log(run_id, metrics=payload.metrics, params=payload.params, tags=payload.tags)
            if payload.status is not None:
                client.set_status(run_id, payload.status, payload.status_time_ms)
        except TrackingError as error:
            raise TrackingError(
                f"{error}; delete {self._run_folder / 'tracking.json'} to send the whole run "
                "again as a new one"
            ) from error

    def _run_id(self, run: str, start_ms: int) -> str:
        """MLflow's id of the run with this key; the run is created if it does not exist."""
        if run in self._state.runs:
            return self._state.runs[run]
        parent = None if run == PARENT else self._run_id(PARENT, start_ms)
        self._save()  # the token must be on disk before the server sees it
        client = self._connected()
        key = f"{self._state.token}/{run}"
        name = self._run_folder.name if run == PARENT else run
        run_id = client.find_run(key)
        if run_id is None:
            run_id = client.create_run(key, name, parent=parent, start_ms=start_ms)
        self._state.runs[run] = run_id
        self._save()
        return run_id

    def _connected(self) -> TrackingClient:
        if self._client is None:
            artefact_folder = self._run_folder.absolute().parent / "mlartifacts"
            self._client = TrackingClient(self._config, artefact_folder)
        return self._client

    def _save(self) -> None:
        self._state.save(self._run_folder, self._uri)


def _lock(run_folder: Path) -> int:
    descriptor = os.open(run_folder / ".tracking.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise TrackingError(
            f"{run_folder.name} is being sent by another process, which also sends the rest"
        ) from error
    except OSError:  # file systems without locks: the user must run one process per run
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
