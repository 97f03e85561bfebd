"""One trial of a sweep: runs with sampled values, in a separate process."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from runner.config.run_config import RunConfig, load_config
from runner.experiment import run_experiment
from runner.on_ray.task_settings import base_folder_of_driver
from runner.results.run_folder import RunStorage
from runner.streaming.decoded_cache import SharedFiles
from runner.sweep.domain_reports import DomainReports, mean_report
from runner.sweep.objectives import Objective
from runner.sweep.space import as_overrides
from runner.sweep.trial_records import PROGRESS, Report, trial_folder
from runner.tracking.event_log import Event, read_events

OWNER_WAIT_S = 120.0
"""Longest wait for the process of a killed driver to release a run."""
_EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)


@dataclass(frozen=True)
class TrialTask:
    """Settings shared by all trials of a sweep.

    Attributes:
        folder: folder of the sweep.
        home: base folder of relative paths in the driver.
        preset: name or absolute path.
        overrides: overrides of every trial; sampled values take precedence.
        seeds: seeds of the runs of each trial.
        objectives: objectives, reported under their names.
        untested: unseen domains without validation identities.
    """

    folder: Path
    home: Path
    preset: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    objectives: tuple[Objective, ...]
    untested: tuple[str, ...]


class _EventForwarder:
    """View of a run that shows nothing and passes the events on."""

    def __init__(self, take: Callable[[Event], None]) -> None:
        self._take = take

    def __enter__(self) -> _EventForwarder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def handle(self, event: Event) -> None:
        """Passes on the next event."""
        self._take(event)


def run_trial(
    parameters: dict[str, Any], task: TrialTask | None = None, shared: SharedFiles | None = None
) -> None:
    """Trainable function of Ray Tune.

    A run that raises an exception is reported as failed, so that Tune does not retry it.

    Args:
        parameters: `number` and `values` (JSON) from the searcher.
        task: settings of the sweep.
        shared: images that are already decoded.
    """
    assert task is not None
    number, values = int(parameters["number"]), json.loads(parameters["values"])
    with base_folder_of_driver(task.home):
        try:
            _run_seeds(task, number, values, shared)
        except _EXPECTED_ERRORS as error:
            tune.report(_failure(f"{type(error).__name__}: {error}"))
        except Exception:  # a bug; trials with other values may not be affected
            tune.report(_failure(traceback.format_exc()))
        drop_checkpoints(task.folder, number)


def trial_config(
    task: TrialTask, number: int, values: Mapping[str, Any], seed: int = 0
) -> RunConfig:
    """Configuration of a trial's run.

    Raises:
        ConfigError: the combination of values is invalid.
    """
    fixed = {
        "seed": seed,
        "run.name": f"seed{seed}",
        "storage.root": str(trial_folder(task.folder, number)),
        # The sweep sends its trials to MLflow.
        "tracking.uri": None,
    }
    return load_config(task.preset, [*task.overrides, *as_overrides(values), *as_overrides(fixed)])


def drop_checkpoints(folder: Path, number: int) -> None:
    """Removes checkpoints of an ended trial that only resuming would need."""
    for each in trial_folder(folder, number).glob("*/checkpoints"):
        for unneeded in [*each.glob("position-*"), *each.glob(".position-*")]:
            shutil.rmtree(unneeded, ignore_errors=True)
        # Fails if other checkpoints remain, or if trial and driver remove the folder together.
        with suppress(OSError):
            each.rmdir()


def _run_seeds(
    task: TrialTask, number: int, values: Mapping[str, Any], shared: SharedFiles | None
) -> None:
    """Executes the runs of all seeds one after another.

    Reports each domain (or candidate epoch) of the first run, then the mean of the runs after each
    run.
    """
    ended: list[Report] = []
    for seed in task.seeds:
        config = trial_config(task, number, values, seed)
        ended.append(_run(task, config, shared, report_parts=not ended))
        report, is_last = mean_report(ended), len(ended) == len(task.seeds)
        if missing := [each.name for each in task.objectives if each.of(report) is None]:
            raise ValueError(f"the runs have no {', '.join(missing)} on validation identities")
        tune.report(_payload(task, report, finished=is_last))


def _run(
    task: TrialTask, config: RunConfig, shared: SharedFiles | None, *, report_parts: bool
) -> Report:
    """Executes one run and returns its last report.

    The last report is not passed to Tune here: Tune may end this process on it, but results.json
    is only written after the last event.
    """
    reports = DomainReports(
        task.untested,
        by_epoch=bool(config.evaluation.every_epochs),
        num_seeds=len(task.seeds),
    )
    last: list[Report] = []

    def take(event: Event) -> None:
        report = reports.take(event)
        if report is None:
            return
        if report.learned_domains == reports.num_domains:
            last.append(report)
        elif report_parts:
            tune.report(_payload(task, report, finished=False))

    storage = RunStorage.of(config)
    _await_owner(storage.folder)
    for event in read_events(storage.events_file).events:  # from earlier starts
        take(event)
    run_experiment(config, view=_EventForwarder(take), shared=shared)
    if not last:
        raise RuntimeError(f"{storage.events_file} has no scores after the last domain")
    return last[-1]


def _payload(task: TrialTask, report: Report, *, finished: bool) -> dict[str, Any]:
    """Result for Tune: values for scheduler and searcher, and the whole report for the record."""
    values = {each.name: each.of(report) for each in task.objectives}
    return {
        PROGRESS: report.progress,
        "report": json.dumps(asdict(report)),
        "finished": finished,
        **{name: value for name, value in values.items() if value is not None},
    }


def _failure(reason: str) -> dict[str, Any]:
    return {"failed": reason}


def _await_owner(folder: Path) -> None:
    """Waits up to `OWNER_WAIT_S` until no process of an earlier driver writes the run."""
    file = folder / ".owner"
    deadline = time.monotonic() + OWNER_WAIT_S
    while file.exists() and time.monotonic() < deadline:
        with file.open("a") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.5)
