"""One trial of a sweep: ordinary runs with sampled values, in a process of their own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from runner.config.run_config import RunConfig, load_config
from runner.experiment import run_experiment
from runner.results.run_folder import RunStorage
from runner.streaming.decoded_cache import SharedFiles
from runner.sweep.domain_reports import DomainReports, mean_report
from runner.sweep.objectives import Objective
from runner.sweep.space import as_overrides
from runner.sweep.trial_records import Report, trial_folder
from runner.tracking.event_log import Event, read_events

OWNER_WAIT_S = 120.0
"""For a process of a killed driver to let go of a run."""
_HOME = "LIFELONG_REID_HOME"
_USUAL = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share.

    Attributes:
        folder: the sweep's.
        home: what relative paths are relative to, in the driver.
        preset: a name or an absolute path.
        overrides: below the sampled values.
        seeds: of the runs of each trial.
        objectives: reported under their names.
        untested: unseen domains with nobody to validate on.
    """

    folder: Path
    home: Path
    preset: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    objectives: tuple[Objective, ...]
    untested: tuple[str, ...]


class _Listener:
    """Shows nothing and hands the run's events on."""

    def __init__(self, take: Callable[[Event], None]) -> None:
        self._take = take

    def __enter__(self) -> _Listener:
        return self

    def __exit__(self, *_: object) -> None: ...

    def handle(self, event: Event) -> None:
        """Takes the next event."""
        self._take(event)


def run_trial(
    parameters: dict[str, Any], task: TrialTask | None = None, shared: SharedFiles | None = None
) -> None:
    """What Tune calls. A run that raises is reported as failed, and so not tried again.

    Args:
        parameters: the searcher's number, and its values as JSON.
        task: the sweep's.
        shared: images that are decoded already.
    """
    assert task is not None
    number, values = int(parameters["number"]), json.loads(parameters["values"])
    with _home(task.home):
        try:
            _run_seeds(task, number, values, shared)
        except _USUAL as error:
            tune.report(_failure(f"{type(error).__name__}: {error}"))
        except Exception:  # a fault of the code, which other values may not meet
            tune.report(_failure(traceback.format_exc()))
        drop_checkpoints(task.folder, number)


def trial_config(
    task: TrialTask, number: int, values: Mapping[str, Any], seed: int = 0
) -> RunConfig:
    """The ordinary configuration of a trial's run.

    Raises:
        ConfigError: the values do not go together.
    """
    own = {
        "seed": seed,
        "run.name": f"seed{seed}",
        "storage.root": str(trial_folder(task.folder, number)),
        # The sweep itself is tracked, with its trials.
        "tracking.uri": None,
    }
    return load_config(task.preset, [*task.overrides, *as_overrides(values), *as_overrides(own)])


def drop_checkpoints(folder: Path, number: int) -> None:
    """Removes what an ended trial would have needed to go on."""
    for each in trial_folder(folder, number).glob("*/checkpoints"):
        for unneeded in [*each.glob("position-*"), *each.glob(".position-*")]:
            shutil.rmtree(unneeded, ignore_errors=True)
        # What is asked to be kept stays; trial and driver may both be at this.
        with suppress(OSError):
            each.rmdir()


def _run_seeds(
    task: TrialTask, number: int, values: Mapping[str, Any], shared: SharedFiles | None
) -> None:
    """The runs one after another; each domain of the first is reported, then each run's mean."""
    ended: list[Report] = []
    for seed in task.seeds:
        config = trial_config(task, number, values, seed)
        ended.append(_run(task, config, shared, tell=not ended))
        report, is_last = mean_report(ended), len(ended) == len(task.seeds)
        if lacking := [each.name for each in task.objectives if each.of(report) is None]:
            raise ValueError(f"the runs have no {', '.join(lacking)} on validation identities")
        tune.report(_payload(task, report, finished=is_last))


def _run(task: TrialTask, config: RunConfig, shared: SharedFiles | None, *, tell: bool) -> Report:
    """One run to its end, and its last report.

    That one is held back: who is told of it may end this process, and results.json is written
    after the last event.
    """
    reports = DomainReports(task.untested)
    last: list[Report] = []

    def take(event: Event) -> None:
        report = reports.take(event)
        if report is None:
            return
        if report.learned_domains == reports.num_domains:
            last.append(report)
        elif tell:
            tune.report(_payload(task, report, finished=False))

    storage = RunStorage.of(config)
    _await_owner(storage.folder)
    for event in read_events(storage.events_file).events:  # of earlier starts
        take(event)
    run_experiment(config, view=_Listener(take), shared=shared)
    if not last:
        raise RuntimeError(f"{storage.events_file} lacks the scores after the last domain")
    return last[-1]


def _payload(task: TrialTask, report: Report, *, finished: bool) -> dict[str, Any]:
    """What the scheduler and the searcher look at, and the whole report for the record."""
    values = {each.name: each.of(report) for each in task.objectives}
    return {
        "learned_domains": report.learned_domains,
        "report": json.dumps(asdict(report)),
        "finished": finished,
        **{name: value for name, value in values.items() if value is not None},
    }


def _failure(reason: str) -> dict[str, Any]:
    return {"failed": reason}


def _await_owner(folder: Path) -> None:
    """Waits, within reason, until no process of an earlier driver writes the run any more."""
    file = folder / ".owner"
    deadline = time.monotonic() + OWNER_WAIT_S
    while file.exists() and time.monotonic() < deadline:
        with file.open("a") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.5)


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Relative paths mean here what they mean in the driver; Tune changes the current folder."""
    before = os.environ.get(_HOME)
    os.environ[_HOME] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_HOME]
        else:
            os.environ[_HOME] = before
