"""Sends a run's event log to MLflow: in the background during training, or later by `sync`.

Training never waits for a server. Events are written to disk first (runner.tracking.event_log), a
thread of the driver sends them, and an unreachable or failing server causes one warning. The run
folder's `tracking.json` records what was sent, so a resumed run continues in the same MLflow runs
and `sync` sends exactly the rest.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
from dataclasses import dataclass
from pathlib import Path

from runner import program_name
from runner.config.sections import TrackingConfig
from runner.tracking.event_log import EventLog, read_events
from runner.tracking.mlflow_client import TrackingError, error_message, public_uri, server_errors
from runner.tracking.mlflow_sender import EventSender, TrackingState

_MAX_BACKOFF_S = 60.0


@dataclass(frozen=True)
class DrainReport:
    """Result of closing a tracker.

    Attributes:
        pending: number of events not sent yet.
        error: why they were not sent; None if all were.
    """

    pending: int
    error: str | None


@dataclass(frozen=True)
class SyncReport:
    """Number of events, metric points and files that `sync` sent, and MLflow's run id."""

    num_events_sent: int
    num_metrics_sent: int
    num_artefacts_sent: int
    run_id: str | None


class Tracker:
    """Sends a run's events to MLflow from a background thread of the driver, until `close`.

    No method raises because of the server, and only `close` waits for it. Failures are retried
    with exponential backoff; the first one is written to the event log as a warning.
    """

    def __init__(self, run_folder: Path, config: TrackingConfig) -> None:
        self._run_folder = run_folder
        self._event_log = run_folder / "events.jsonl"
        self._config = config
        self._sender: EventSender | None = None
        self._error: str | None = None
        self._warned = False
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Tracker:
        """Starts sending; does nothing if tracking is off."""
        if self._config.uri is not None and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()
        return self

    def close(self, timeout_s: float) -> DrainReport:
        """Sends the remaining events and the run's files; gives up after `timeout_s` seconds."""
        if self._config.uri is None or self._thread is None:
            return DrainReport(0, None)
        self._closing.set()
        self._thread.join(timeout_s)
        error = self._error
        if self._thread.is_alive():
            self._abandoned.set()
            error = error or f"{public_uri(self._config.uri)}: not done after {timeout_s:g} s"
        return DrainReport(self._num_pending(), error)

    def _num_pending(self) -> int:
        try:
            offset = TrackingState.load(self._run_folder, self._config.uri or "").offset
        except TrackingError:
            offset = 0
        return len(read_events(self._event_log, offset).events)

    def _work(self) -> None:
        num_failures = 0
        wait_s = 0.0
        closing = False
        while not closing:
            closing = self._closing.wait(wait_s)
            try:
                self._send(closing)
                self._error, num_failures = None, 0
            except Exception as error:  # training continues, whatever the server does
                num_failures += 1
                self._record(error)
            wait_s = min(_MAX_BACKOFF_S, self._config.drain_interval_s * 2**num_failures)
        if self._sender is not None:
            self._sender.close()

    def _send(self, closing: bool) -> None:
        if self._sender is None:
            self._sender = EventSender(self._run_folder, self._config)
        while not self._abandoned.is_set() and self._sender.send_slice():
            pass
        if closing and not self._abandoned.is_set():
            self._sender.send_artefacts()

    def _record(self, error: Exception) -> None:
        self._error = error_message(self._config, error)
        if self._warned:
            return
        self._warned = True
        message = (
            f"Tracking: {self._error}. Training continues; "
            f"`{program_name()} sync {shlex.quote(str(self._run_folder))}` sends the rest."
        )
        with contextlib.suppress(OSError):
            EventLog(self._event_log).emit("log", level="warning", message=message)


def sync(run_folder: Path, config: TrackingConfig) -> SyncReport:
    """Sends everything of a run that MLflow does not have yet; creates MLflow runs if needed.

    Raises:
        FileNotFoundError: the folder contains no run.
        ValueError: tracking is off.
        TrackingError: the server does not answer or refuses, or another process sends the run.
    """
    if not (run_folder / "events.jsonl").exists():
        raise FileNotFoundError(f"expected a run's events.jsonl in {run_folder}, found none")
    if config.uri is None:
        raise ValueError(
            "tracking.uri: expected a server, got null; set tracking.uri=http://host:5000"
        )
    advice = (
        ". No data is lost: repeat the command when the server answers, or set another tracking.uri"
    )
    with (
        server_errors(config, advice),
        contextlib.closing(EventSender(run_folder, config)) as sender,
    ):
        while sender.send_slice():
            pass
        sender.send_artefacts()
        return SyncReport(
            sender.num_events, sender.num_metrics, sender.num_artefacts, sender.run_id
        )
