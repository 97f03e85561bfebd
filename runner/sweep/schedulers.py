"""Schedulers that stop trials early, initialised with the trials of earlier drivers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from runner.sweep.objectives import Objective
from runner.sweep.settings import Scheduler
from runner.sweep.trial_records import PROGRESS, TrialRecord

_UNLIMITED = 10**6
"""More than any number of epochs; ASHA needs a maximum."""


class ProtectingScheduler(TrialScheduler):
    """Scheduler that never stops protected trials.

    The trial with the values of the preset is protected, because other trials are compared with
    its final scores.
    """

    protected: frozenset[int] = frozenset()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether the trial continues."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] in self.protected else decision


class Asha(ProtectingScheduler, ASHAScheduler):
    """Asynchronous successive halving."""


class _RestartedMedian(MedianStoppingRule):
    """Median stopping of Ray Tune for trials that may be restarted and are never paused.

    A restarted trial reports earlier domains or epochs again; these must not count twice in its
    running mean.
    A paused trial would lose its process and have to load everything again.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether the trial continues."""
        if any(
            earlier[PROGRESS] == result.get(PROGRESS) for earlier in self._results.get(trial, ())
        ):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Does nothing: the last report is already known, and that of a failure has no value."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return TrialScheduler.CONTINUE


class MedianRule(ProtectingScheduler, _RestartedMedian):
    """Median stopping rule."""


@dataclass(frozen=True, eq=False)
class _PastTrial:
    trial_id: str
    config: dict[str, int]


def make_scheduler(
    kind: Scheduler,
    objective: Objective,
    num_domains: int | None,
    past: Iterable[TrialRecord] = (),
    *,
    grace: int = 1,
    protected: Iterable[int] = (),
) -> TrialScheduler:
    """Creates a scheduler that compares trials at equal progress: learned domains, or epochs.

    Args:
        kind: `asha` continues the better half of the trials after `grace`, 2 `grace`, 4 `grace`,
            ... domains or epochs; `median` stops trials below the median of the other trials'
            means; `none` stops no trial.
        objective: objective that is compared.
        num_domains: number of domains of a complete trial, over all its seeds; None if trials
            report after epochs, whose number the space may vary.
        past: trials of earlier drivers; new trials are compared with the finished and stopped ones.
        grace: number of domains or epochs that every trial learns.
        protected: numbers of trials that are never stopped.
    """
    num_steps = _UNLIMITED if num_domains is None else num_domains
    grace = min(grace, num_steps)
    match kind:
        case "none":
            return FIFOScheduler()
        case "asha":
            scheduler = Asha(
                time_attr=PROGRESS, metric=objective.name, mode=objective.mode,
                max_t=num_steps, grace_period=grace, reduction_factor=2,
            )  # fmt: skip
        case "median":
            scheduler = MedianRule(
                time_attr=PROGRESS, metric=objective.name, mode=objective.mode,
                grace_period=grace, min_samples_required=3,
            )  # fmt: skip
    scheduler.protected = frozenset(protected)
    for record in past:
        if record.state in ("finished", "stopped"):
            _replay(scheduler, record, objective)
    return scheduler


def _replay(scheduler: TrialScheduler, record: TrialRecord, objective: Objective) -> None:
    trial: Any = _PastTrial(f"past-{record.number}", {"number": record.number})
    controller: Any = None
    scheduler.on_trial_add(controller, trial)
    for report in record.reports:
        value = objective.of(report)
        if value is not None:
            result = {PROGRESS: report.progress, objective.name: value}
            scheduler.on_trial_result(controller, trial, result)
