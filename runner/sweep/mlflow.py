"""A sweep -> MLflow: one parent run, and a child for each trial that has ended."""

from __future__ import annotations

import hashlib
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
from runner.sweep.settings import SPACE_FILE, SweepSettings
from runner.sweep.trial_records import TrialRecord, read_records
from runner.tracking.mlflow_client import TrackingError
from runner.tracking.mlflow_tagged_runs import KeyedRuns, Point, digest_of, with_runs

_FILES = ("best.yaml", "trials.csv", "summary.json", "table.md", SPACE_FILE)
_FOLDERS = ("pictures", "pareto")
_STATES = ("finished", "stopped", "failed")
_LONGEST_TAG = 4000
_LATER = "Nothing of the sweep is lost; the same command sends it later"


def send_outcome(
    folder: Path, settings: SweepSettings, tracking: TrackingConfig, *, files: bool = True
) -> int:
    """Sends what MLflow does not have yet of a sweep's records and outcome files; may be repeated.

    The parent has the settings as parameters, the best objective after each ended trial as a
    metric, and the outcome files; a child has the trial's sampled values, every score after each
    of its domains (the step), and tags with how it ended.

    Args:
        folder: of the sweep.
        settings: what it was asked to do.
        tracking: with an absolute `uri` (`runner.experiment.tracking_uri`).
        files: whether outcome files are sent as well, or left to the sweep's end.

    Returns:
        How many MLflow runs were created or brought up to date.

    Raises:
        TrackingError: the server does not answer or refuses; nothing else is touched.
    """
    assert tracking.uri is not None
    database = Path(tracking.uri.removeprefix("sqlite:///").partition("?")[0])
    beside = database.parent if tracking.uri.startswith("sqlite:///") else folder.parent
    send = partial(_send, folder, settings, files)
    return with_runs(folder, tracking, beside / "mlartifacts", send)


class SweepTracker:
    """Calls `send_outcome` in a thread, so that no trial waits for a server.

    Args:
        folder: of the sweep.
        settings: what it was asked to do.
        tracking: with an absolute `uri`.
        say: is told, once, why nothing arrives.
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
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._error: str | None = None
        self._num_sent = 0
        self._thread = threading.Thread(target=self._work, name="sweep-tracker", daemon=True)

    def wake(self) -> None:
        """A trial has ended: send soon, but return at once."""
        if self._thread.ident is None:
            self._thread.start()
        self._wanted.set()

    def close(self, timeout_s: float) -> str | None:
        """Sends the rest, files too, and gives up after a time; returns what is to be said."""
        self._closing.set()
        self.wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return f"Tracking  MLflow has not taken everything within {timeout_s:.0f} s. {_LATER}"
        if self._error is not None:
            return f"Tracking  {self._error}. {_LATER}"
        return f"Tracking  {self._num_sent} MLflow runs sent or changed"

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
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


def _send(folder: Path, settings: SweepSettings, files: bool, runs: KeyedRuns) -> int:
    ended = [record for record in read_records(folder) if record.state != "running"]
    sent = _files(folder) if files else {}
    own = {"settings": asdict(settings) | {"storage": None}, "files": sent, "last": files}
    digest = digest_of([own, [asdict(record) for record in ended]])
    tags = {"sweep": settings.name, "preset": settings.preset}
    began = min((record.began for record in ended if record.began), default=time.time())
    name = f"sweep {settings.name}"
    parent, is_new = runs.open("sweep", name, tags, digest, int(began * 1000))
    num_sent = sum(_send_trial(runs, parent, record) for record in ended)
    if not is_new:
        return num_sent
    runs.log(parent, _params(settings), _best_points(ended, settings))
    counts = {state: sum(each.state == state for each in ended) for state in _STATES}
    # What a later start may change is no parameter: these can be written once.
    changing = {"trials": settings.num_trials, "concurrent": settings.concurrent, **counts}
    for key, value in changing.items():
        runs.client.set_tag(parent, key, str(value))
    for file in sent:
        place = str(Path(file).parent)
        runs.client.log_artifact(parent, str(folder / file), None if place == "." else place)
    if len(ended) >= settings.num_trials and files:
        runs.close(parent, digest)
    else:
        runs.client.update_run(parent, status="RUNNING")
        runs.keep(parent, digest)
    return num_sent + 1


def _send_trial(runs: KeyedRuns, parent: str, record: TrialRecord) -> bool:
    digest = digest_of(asdict(record))
    tags = {"mlflow.parentRunId": parent, "trial": str(record.number)}
    began = record.began or record.ended or 0.0
    key, name = f"trial/{record.number}", f"trial {record.number}"
    child, is_new = runs.open(key, name, tags, digest, int(began * 1000))
    if not is_new:
        return False
    points = [
        Point(
            f"{split}.{name}", value, int(1000 * (began + report.seconds)), report.learned_domains
        )
        for report in record.reports
        for split, scores in (("validation", report.validation), ("test", report.test))
        for name, value in scores.items()
    ]
    params = {key: as_text(value) for key, value in record.values.items()}
    runs.log(child, params, points)
    learned = record.last.learned_domains if record.last else 0
    said = {"state": record.state, "learned_domains": str(learned)}
    said |= {"reason": record.reason[:_LONGEST_TAG]} if record.reason else {}
    for key, text in said.items():
        runs.client.set_tag(child, key, text)
    status = "FAILED" if record.state == "failed" else "FINISHED"
    runs.close(child, digest, status, int(1000 * (record.ended or time.time())))
    return True


def _params(settings: SweepSettings) -> dict[str, str]:
    return {
        "preset": settings.preset,
        "overrides": " ".join(settings.overrides)[:_LONGEST_TAG],
        "sampler": settings.sampler,
        "sampler_seed": str(settings.sampler_seed),
        "scheduler": settings.scheduler,
        "objective": settings.objective,
        "seeds": json.dumps(list(settings.seeds)),
    }


def _best_points(ended: list[TrialRecord], settings: SweepSettings) -> list[Point]:
    """The best value of each objective after each trial's end; the step is the number of ends."""
    points: list[Point] = []
    for each in settings.objectives:
        best: float | None = None
        in_order = sorted(ended, key=lambda record: record.ended or 0.0)
        for step, record in enumerate(in_order, start=1):
            value = final(record, each)
            if value is not None and (best is None or each.is_better(value, best)):
                best = value
            time_ms = int(1000 * (record.ended or 0.0))
            points.append(Point(f"best.{each.name}", best, time_ms, step))
    return points


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of the outcome's files, by their paths in the folder."""
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    found += [file for name in _FOLDERS for file in sorted((folder / name).glob("[!.]*"))]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in found
    }
