"""The event spool -> MLflow: in the background while a run trains, or afterwards by `sync`.

Training never waits for a server: what it reports is on disk first (runner.tracking.event_log), a
thread of the driver sends it on, and a server that is slow, dead or wrong costs one warning. What
was sent is remembered in `tracking.json` in the run's folder, so that a resumed run goes on in the
same MLflow runs and `sync` sends exactly the rest.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

from runner import program_name
from runner.config.sections import TrackingConfig
from runner.tracking.event_log import EventSpool, read_events
from runner.tracking.mlflow_client import (
    Server,
    SpoolSender,
    TrackingError,
    TrackingState,
    public_uri,
    reason,
)

_MAX_BACKOFF_S = 60.0


def resolve_uri(uri: str, base: Path) -> str:
    """`uri` with the file of a relative `sqlite:///` URI taken from `base` (an absolute folder)."""
    prefix = "sqlite:///"
    return f"{prefix}{base / uri.removeprefix(prefix)}" if uri.startswith(prefix) else uri


@dataclass(frozen=True)
class DrainReport:
    """How tracking ended: `pending` events are not sent yet, `error` says why (None if all are)."""

    pending: int
    error: str | None


@dataclass(frozen=True)
class SyncReport:
    """What `sync` sent: spool events, metric points in them, and files; `run_id` is MLflow's."""

    num_events_sent: int
    num_metrics_sent: int
    num_artefacts_sent: int
    run_id: str | None


class Tracker:
    """Sends a run's events to MLflow from a thread of the driver, until `close`.

    Nothing here raises because of the server, and nothing waits for it except `close`: failures
    are retried ever more rarely, and the first one is written to the spool as a warning.
    """

    def __init__(self, run_folder: Path, config: TrackingConfig) -> None:
        self._run_folder = run_folder
        self._spool = run_folder / "events.jsonl"
        self._config = config
        self._sender: SpoolSender | None = None
        self._error: str | None = None
        self._warned = False
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Tracker:
        """Begins to send; does nothing where tracking is off."""
        if self._config.uri is not None and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()
        return self

    def close(self, timeout_s: float) -> DrainReport:
        """Sends what is left and the run's files, but gives up after `timeout_s` seconds."""
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
        return len(read_events(self._spool, offset).events)

    def _work(self) -> None:
        num_failures = 0
        wait_s = 0.0
        closing = False
        while not closing:
            closing = self._closing.wait(wait_s)
            try:
                self._send(closing)
                self._error, num_failures = None, 0
            except Exception as error:  # whatever the server or its client does, training goes on
                num_failures += 1
                self._note(error)
            wait_s = min(_MAX_BACKOFF_S, self._config.drain_interval_s * 2**num_failures)
        if self._sender is not None:
            self._sender.close()

    def _send(self, closing: bool) -> None:
        if self._sender is None:
            self._sender = SpoolSender(self._run_folder, _server(self._config))
        while not self._abandoned.is_set() and self._sender.send_slice():
            pass
        if closing and not self._abandoned.is_set():
            self._sender.send_artefacts()

    def _note(self, error: Exception) -> None:
        self._error = f"{public_uri(self._config.uri or '')}: {reason(error)}"
        if self._warned:
            return
        self._warned = True
        message = (
            f"Tracking: {self._error}. Training goes on; "
            f"`{program_name()} sync {self._run_folder}` sends the rest."
        )
        with contextlib.suppress(OSError):
            EventSpool(self._spool).emit("log", level="warning", message=message)


def sync(run_folder: Path, config: TrackingConfig) -> SyncReport:
    """Sends all that MLflow does not have yet of a run, creating its MLflow runs if need be.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: tracking is off.
        TrackingError: the server does not answer or refuses, or another process sends the run.
    """
    if not (run_folder / "events.jsonl").exists():
        raise FileNotFoundError(f"expected a run's events.jsonl in {run_folder}; found none")
    if config.uri is None:
        raise ValueError("tracking.uri is null; say where to send: tracking.uri=http://host:5000")
    try:
        with contextlib.closing(SpoolSender(run_folder, _server(config))) as sender:
            while sender.send_slice():
                pass
            sender.send_artefacts()
            return SyncReport(
                sender.num_events, sender.num_metrics, sender.num_artefacts, sender.run_id
            )
    except TrackingError:
        raise
    except Exception as error:  # MLflow, its databases and HTTP have no common base class
        raise TrackingError(
            f"{public_uri(config.uri)}: {reason(error)}. Nothing is lost: repeat the command once "
            "the server answers, or give another tracking.uri"
        ) from error


def _server(config: TrackingConfig) -> Server:
    assert config.uri is not None
    return Server(config.uri, config.experiment, config.request_timeout_s, config.request_retries)
