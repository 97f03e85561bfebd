"""Ray Tune callback that writes trial.json files; only the driver writes them."""

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
        folder: folder of the sweep.
        on_change: called with every record that is written.
        on_end: called with the last record of every trial.
    """

    def __init__(
        self,
        folder: Path,
        on_change: Callable[[TrialRecord], None] = lambda _: None,
        on_end: Callable[[TrialRecord], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._on_change = on_change
        self._on_end = on_end
        self._records = {record.number: record for record in read_records(folder)}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records the start or restart of a trial."""
        self.drop_checkpoints()
        number, values = _of(trial)
        record = self._records.get(number) or TrialRecord(number, values, began=time.time())
        self._keep(replace(record, state="running", ended=None, reason=None))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Records a report."""
        if "report" in result:
            record = self._records[_of(trial)[0]]
            self._keep(record.with_report(Report(**json.loads(result["report"]))))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records that a trial finished, was stopped, or reported its failure."""
        result = trial.last_result or {}
        if "failed" in result:
            self._end(trial, "failed", result["failed"])
        else:
            self._end(trial, "finished" if result.get("finished") else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records that the process of a trial died too often."""
        error = trial.get_error()
        message = str(error or "").strip().partition("\n")[0]
        times = f"the process died {trial.run_metadata.num_failures} times"
        reason = f"{times}, more than cluster.max_failures; last error: {message}"
        self._end(trial, "failed", reason)

    def drop_checkpoints(self) -> None:
        """Removes checkpoints of ended trials that only resuming would need.

        Called later than the end of a trial, because the process of a stopped trial may still
        write.
        """
        for record in self._records.values():
            if record.state != "running":
                drop_checkpoints(self._folder, record.number)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles the callback for a restore that is not used

    def _end(self, trial: Any, state: State, reason: str | None = None) -> None:
        record = self._records[_of(trial)[0]]
        record = replace(record, state=state, ended=time.time(), reason=reason)
        self._keep(record)
        self._on_end(record)

    def _keep(self, record: TrialRecord) -> None:
        self._records[record.number] = record
        write_record(self._folder, record)
        self._on_change(record)


_ENDED: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def reconcile(folder: Path, study: optuna.Study) -> list[TrialRecord]:
    """Updates records of trials that ended according to the study, and returns all records.

    The study records the end of a trial before trial.json does.
    """
    for record in read_records(folder):
        trials = study.get_trials(deepcopy=False)
        known = trials[record.number].state if record.number < len(trials) else TrialState.RUNNING
        if record.state == "running" and known in _ENDED:
            reason = (
                "the driver ended before it wrote the reason" if known == TrialState.FAIL else None
            )
            write_record(
                folder, replace(record, state=_ENDED[known], ended=time.time(), reason=reason)
            )
    return read_records(folder)


def _of(trial: Any) -> tuple[int, dict[str, Any]]:
    return int(trial.config["number"]), json.loads(trial.config["values"])
