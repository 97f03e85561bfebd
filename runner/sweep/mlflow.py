"""Sends a sweep to MLflow: one parent run, and a child run per ended trial."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from runner.config.sections import TrackingConfig
from runner.sweep.importances import final
from runner.sweep.parameters import as_text
from runner.sweep.settings import SPACE_FILE, SweepSettings, shown_overrides
from runner.sweep.trial_records import TrialRecord, read_records
from runner.tracking.mlflow_client import (
    MAX_TEXT_LENGTH,
    MetricPoint,
    TrackingError,
    database_file,
    file_digest,
)
from runner.tracking.mlflow_tagged_runs import TaggedRuns, digest_of, tagged_runs

_FILES = ("best.yaml", "trials.csv", "summary.json", "table.md", SPACE_FILE)
_FOLDERS = ("pictures", "pareto")
_STATES = ("finished", "stopped", "failed")
_LATER = "No data of the sweep is lost; repeat the command to send it later"


def send_outcome(
    folder: Path, settings: SweepSettings, tracking: TrackingConfig, *, files: bool = True
) -> int:
    """Sends the records and outcome files of a sweep that MLflow does not have yet; repeatable.

    The parent run holds the settings as params, the best objective after each ended trial as a
    metric, and the outcome files. A child run holds the trial's sampled values, every score after
    each of its domains (the step), and tags with its outcome.

    Args:
        folder: sweep folder.
        settings: settings of the sweep.
        tracking: tracking configuration with an absolute `uri` (`runner.experiment.tracking_uri`).
        files: whether to send outcome files as well; without them the parent run stays open.

    Returns:
        Number of MLflow runs created or updated.

    Raises:
        TrackingError: the server does not answer or refuses; local files are unchanged.
    """
    assert tracking.uri is not None
    database = database_file(tracking.uri)
    artefact_folder = (database or folder).parent / "mlartifacts"
    with tagged_runs(folder, tracking, artefact_folder) as runs:
        return _send(folder, settings, files, runs)


class SweepTracker:
    """Calls `send_outcome` in a background thread, so that no trial waits for a server.

    Args:
        folder: sweep folder.
        settings: settings of the sweep.
        tracking: tracking configuration with an absolute `uri`.
        say: called once with a message if sending fails.
    """

    def __init__(
        self,
        folder: Path,
        settings: SweepSettings,
        tracking: TrackingConfig,
        say: Callable[[str], None],
    ) -> None:
        self._send = partial(send_outcome, folder, settings, tracking)
        self._say = say
        self._requested = threading.Event()
        self._closing = threading.Event()
        self._error: str | None = None
        self._num_sent = 0
        self._thread = threading.Thread(target=self._work, name="sweep-tracker", daemon=True)

    def wake(self) -> None:
        """Requests that new data be sent; call it when a trial has ended. Returns immediately."""
        if self._thread.ident is None:
            self._thread.start()
        self._requested.set()

    def close(self, timeout_s: float) -> str | None:
        """Sends the rest, files included, within `timeout_s` seconds; returns a status message."""
        self._closing.set()
        self.wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return f"Tracking  MLflow did not receive all data within {timeout_s:.0f} s. {_LATER}"
        if self._error is not None:
            return f"Tracking  {self._error}. {_LATER}"
        return f"Tracking  {self._num_sent} MLflow runs created or updated"

    def _work(self) -> None:
        while True:
            self._requested.wait()
            self._requested.clear()
            is_last = self._closing.is_set()
            try:
                self._num_sent += self._send(files=is_last)
                self._error = None
            except TrackingError as error:
                if self._error is None and not is_last:
                    self._say(f"Tracking  {error}; trying again when the next trial ends")
                self._error = str(error)
            if is_last:
                return


def _send(folder: Path, settings: SweepSettings, files: bool, runs: TaggedRuns) -> int:
    ended = [record for record in read_records(folder) if record.state != "running"]
    digests = _file_digests(folder) if files else {}
    parent_data = {
        "settings": asdict(settings) | {"storage": None},
        "files": digests,
        "last": files,
    }
    digest = digest_of([parent_data, [asdict(record) for record in ended]])
    tags = {"sweep": settings.name, "preset": settings.preset}
    began = min((record.began for record in ended if record.began), default=time.time())
    name = f"sweep {settings.name}"
    parent, is_outdated = runs.open("sweep", name, tags, digest, start_ms=int(began * 1000))
    num_sent = sum(_send_trial(runs, parent, record) for record in ended)
    if not is_outdated:
        return num_sent
    counts = {state: sum(each.state == state for each in ended) for state in _STATES}
    # A later start may change these values, and MLflow params cannot change: send them as tags.
    changing = {"trials": settings.num_trials, "concurrent": settings.concurrent, **counts}
    runs.client.log(
        parent,
        metrics=_best_points(ended, settings),
        params=_params(settings),
        tags={key: str(value) for key, value in changing.items()},
    )
    for file in digests:
        subfolder = str(Path(file).parent)
        runs.client.log_file(parent, folder / file, None if subfolder == "." else subfolder)
    is_complete = len(ended) >= settings.num_trials and files
    runs.mark_sent(parent, digest, "FINISHED" if is_complete else "RUNNING")
    return num_sent + 1


def _send_trial(runs: TaggedRuns, parent: str, record: TrialRecord) -> bool:
    digest = digest_of(asdict(record))
    began = record.began or record.ended or 0.0
    key, name = f"trial/{record.number}", f"trial {record.number}"
    tags = {"trial": str(record.number)}
    child, is_outdated = runs.open(
        key, name, tags, digest, parent=parent, start_ms=int(began * 1000)
    )
    if not is_outdated:
        return False
    tags = {"state": record.state, "learned_domains": str(record.learned_domains)}
    if record.last and record.last.epochs is not None:
        tags["epochs"] = str(record.last.epochs)
    if record.reason:
        tags["reason"] = record.reason[:MAX_TEXT_LENGTH]
    params = {key: as_text(value) for key, value in record.values.items()}
    runs.client.log(child, metrics=_trial_points(record, began), params=params, tags=tags)
    status = "FAILED" if record.state == "failed" else "FINISHED"
    runs.mark_sent(child, digest, status, int(1000 * (record.ended or time.time())))
    return True


def _trial_points(record: TrialRecord, began: float) -> list[MetricPoint]:
    """Every score of each report; the step is the number of learned domains, or of epochs."""
    return [
        MetricPoint(f"{split}.{name}", value, int(1000 * (began + report.seconds)), report.progress)
        for report in record.reports
        for split, scores in (("validation", report.validation), ("test", report.test))
        for name, value in scores.items()
        if value is not None
    ]


def _params(settings: SweepSettings) -> dict[str, str]:
    return {
        "preset": settings.preset,
        "overrides": " ".join(shown_overrides(settings.overrides))[:MAX_TEXT_LENGTH],
        "sampler": settings.sampler,
        "sampler_seed": str(settings.sampler_seed),
        "scheduler": settings.scheduler,
        "objective": settings.objective,
        "seeds": json.dumps(list(settings.seeds)),
    }


def _best_points(ended: list[TrialRecord], settings: SweepSettings) -> list[MetricPoint]:
    """Best value of each objective after each ended trial; the step counts ended trials."""
    points: list[MetricPoint] = []
    for each in settings.objectives:
        best: float | None = None
        in_order = sorted(ended, key=lambda record: record.ended or 0.0)
        for step, record in enumerate(in_order, start=1):
            value = final(record, each)
            if value is not None and (best is None or each.is_better(value, best)):
                best = value
            if best is not None:
                time_ms = int(1000 * (record.ended or 0.0))
                points.append(MetricPoint(f"best.{each.name}", best, time_ms, step))
    return points


def _file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the outcome files, by path relative to the folder."""
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    files += [file for name in _FOLDERS for file in sorted((folder / name).glob("[!.]*"))]
    return {str(file.relative_to(folder)): file_digest(file) for file in files}
