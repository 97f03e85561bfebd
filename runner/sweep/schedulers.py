"""Who stops trials early, and what it is told of trials that ended under an earlier driver."""

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
from runner.sweep.trial_records import TrialRecord

TIME = "learned_domains"


class Sparing(TrialScheduler):
    """A scheduler that lets some trials learn all their domains, whatever it thinks of them.

    With the preset's own values the others are compared: stopped early they would be worth nothing.
    """

    spared: frozenset[int] = frozenset()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] in self.spared else decision


class Asha(Sparing, ASHAScheduler):
    """Asynchronous successive halving."""


class _RestartedMedian(MedianStoppingRule):
    """Ray's rule for trials that may be started again, and never pause.

    A started trial reports its domains anew, which must not weigh twice in its running mean; a
    paused one would give up its process for another that has to load everything again.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if any(earlier[TIME] == result.get(TIME) for earlier in self._results.get(trial, ())):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last report is known already, and that of a failure has no value."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return TrialScheduler.CONTINUE


class MedianRule(Sparing, _RestartedMedian):
    """Median stopping."""


@dataclass(frozen=True, eq=False)
class _PastTrial:
    trial_id: str
    config: dict[str, int]


def make_scheduler(
    kind: Scheduler,
    objective: Objective,
    num_domains: int,
    past: Iterable[TrialRecord] = (),
    *,
    grace: int = 1,
    spared: Iterable[int] = (),
) -> TrialScheduler:
    """Compares trials after equally many learned domains.

    Args:
        kind: asha goes on with the better half of the trials after `grace`, 2 `grace`,
            4 `grace`, ... domains; median stops those below the median of the others' means.
        objective: what is compared.
        num_domains: a whole trial's, over all its seeds.
        past: trials of earlier drivers; with those that ended, new ones are compared.
        grace: domains that every trial learns.
        spared: numbers of trials that are not stopped.
    """
    grace = min(grace, num_domains)
    match kind:
        case "none":
            return FIFOScheduler()
        case "asha":
            scheduler = Asha(
                time_attr=TIME, metric=objective.name, mode=objective.mode,
                max_t=num_domains, grace_period=grace, reduction_factor=2,
            )  # fmt: skip
        case "median":
            scheduler = MedianRule(
                time_attr=TIME, metric=objective.name, mode=objective.mode,
                grace_period=grace, min_samples_required=3,
            )  # fmt: skip
    scheduler.spared = frozenset(spared)
    for record in past:
        if record.state in ("finished", "stopped"):
            _tell(scheduler, record, objective)
    return scheduler


def _tell(scheduler: TrialScheduler, record: TrialRecord, objective: Objective) -> None:
    trial: Any = _PastTrial(f"past-{record.number}", {"number": record.number})
    controller: Any = None
    scheduler.on_trial_add(controller, trial)
    for report in record.reports:
        value = objective.of(report)
        if value is not None:
            result = {TIME: report.learned_domains, objective.name: value}
            scheduler.on_trial_result(controller, trial, result)
