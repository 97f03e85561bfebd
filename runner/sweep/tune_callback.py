"""Writes trial.json files as Tune tells what its trials do; the driver alone writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Callback

from runner.sweep.trial import drop_checkpoints
from runner.sweep.trial_records import Report, State, TrialRecord, read_records, write_record


class Recorder(Callback):
    """Keeps the records of a sweep up to date.

    Args:
        folder: the sweep's.
        changed: told of a record when it is written.
        ended: told of a record that is a trial's last.
    """

    def __init__(
        self,
        folder: Path,
        changed: Callable[[TrialRecord], None] = lambda _: None,
        ended: Callable[[TrialRecord], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._changed = changed
        self._ended = ended
        self._records = {record.number: record for record in read_records(folder)}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again."""
        self.drop_checkpoints()
        number, values = _of(trial)
        record = self._records.get(number) or TrialRecord(number, values, began=time.time())
        self._keep(replace(record, state="running", ended=None, reason=None))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has learned a domain."""
        if "report" in result:
            record = self._records[_of(trial)[0]]
            self._keep(record.with_report(Report(**json.loads(result["report"]))))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has finished, was stopped, or says itself that it failed."""
        result = trial.last_result or {}
        if "failed" in result:
            self._end(trial, "failed", result["failed"])
        else:
            self._end(trial, "finished" if result.get("finished") else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died more often than it may."""
        error = trial.get_error()
        said = str(error or "").strip().partition("\n")[0]
        times = f"its process ended {trial.run_metadata.num_failures} times"
        self._end(trial, "failed", f"{times}, more often than cluster.max_failures; last: {said}")

    def drop_checkpoints(self) -> None:
        """Removes what stopped trials would have needed to go on.

        Not at once: the process of one that is being stopped may still write.
        """
        for record in self._records.values():
            if record.state != "running":
                drop_checkpoints(self._folder, record.number)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings for a restore that is never made

    def _end(self, trial: Any, state: State, reason: str | None = None) -> None:
        record = self._records[_of(trial)[0]]
        record = replace(record, state=state, ended=time.time(), reason=reason)
        self._keep(record)
        self._ended(record)

    def _keep(self, record: TrialRecord) -> None:
        self._records[record.number] = record
        write_record(self._folder, record)
        self._changed(record)


_ENDED: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def reconcile(folder: Path, study: optuna.Study) -> list[TrialRecord]:
    """Records as the study has them, which is told first of a trial's end; returns all."""
    for record in read_records(folder):
        trials = study.get_trials(deepcopy=False)
        known = trials[record.number].state if record.number < len(trials) else TrialState.RUNNING
        if record.state == "running" and known in _ENDED:
            reason = "the driver ended before it wrote why" if known == TrialState.FAIL else None
            write_record(
                folder, replace(record, state=_ENDED[known], ended=time.time(), reason=reason)
            )
    return read_records(folder)


def _of(trial: Any) -> tuple[int, dict[str, Any]]:
    return int(trial.config["number"]), json.loads(trial.config["values"])
