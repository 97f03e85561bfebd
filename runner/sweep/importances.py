"""Parameter importances: the share of an objective's variance, by Optuna's fANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.sweep.objectives import Objective
from runner.sweep.parameters import Choices, IntRange, to_optuna
from runner.sweep.space import AnyParameter, SearchSpace, as_params
from runner.sweep.trial_records import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 6
"""Smallest number of finished trials; with fewer, the random forest of fANOVA fits noise."""


@dataclass(frozen=True)
class Importance:
    """Importance of one parameter.

    Attributes:
        share: share of the variance explained by all compared parameters, in [0, 1].
        num_trials: number of finished trials it is estimated from.
        is_conditional: whether it is estimated only from trials in which the parameter applies; it
            is not comparable with shares over all trials.
    """

    share: float
    num_trials: int
    is_conditional: bool


@dataclass(frozen=True)
class Importances:
    """Importances for one objective.

    Attributes:
        of: importances by key, in descending order.
        num_trials: number of finished trials with a value.
        why: reason why some or all importances are unknown; "" if all are known.
    """

    of: Mapping[str, Importance]
    num_trials: int
    why: str = ""


def importances(
    records: Sequence[TrialRecord], space: SearchSpace, objective: Objective
) -> Importances:
    """Computes importances (Hutter et al., ICML 2014) from the finished trials.

    Stopped trials have learned fewer domains and are excluded. A conditional parameter is compared
    with the others over the trials in which it applies.
    """
    known = [
        (record, value) for record in records if (value := final(record, objective)) is not None
    ]
    num_known = len(known)
    if num_known < MIN_TRIALS:
        why = f"too few finished trials: expected at least {MIN_TRIALS}, got {num_known}"
        return Importances({}, num_known, why)
    if len({value for _, value in known}) == 1:
        return Importances({}, num_known, f"all {num_known} finished trials are equal")
    common = [key for key in space.parameters if all(key in each.values for each, _ in known)]
    result = {
        key: Importance(share, num_known, is_conditional=False)
        for key, share in _shares(known, space, objective, common).items()
    }
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in space.parameters:
        if key not in common:
            applied = tuple(record.number for record, _ in known if key in record.values)
            groups.setdefault(applied, []).append(key)
    few: list[str] = []
    for applied, keys in groups.items():
        subset = [(record, value) for record, value in known if record.number in applied]
        if len(subset) < MIN_TRIALS or len({value for _, value in subset}) == 1:
            few += [f"{key} ({len(subset)})" for key in keys]
            continue
        present = [key for key in space.parameters if all(key in each.values for each, _ in subset)]
        shares = _shares(subset, space, objective, present)
        for key in keys:
            result[key] = Importance(shares.get(key, 0.0), len(subset), is_conditional=True)
    ordered = sorted(result.items(), key=lambda item: -item[1].share)
    why = f"too few trials in which these apply: {', '.join(few)}" if few else ""
    return Importances(dict(ordered), num_known, why)


def final(record: TrialRecord, objective: Objective) -> float | None:
    """Value of a finished trial; None for other trials."""
    return objective.of(record.last) if record.state == "finished" and record.last else None


def distribution(parameter: AnyParameter) -> BaseDistribution:
    """Optuna distribution of a parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choices):
        return CategoricalDistribution([to_optuna(each) for each in parameter.choices])
    low, high, log, step = parameter.low, parameter.high, parameter.log, parameter.step
    if isinstance(parameter, IntRange):
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _shares(
    known: Sequence[tuple[TrialRecord, float]],
    space: SearchSpace,
    objective: Objective,
    keys: Sequence[str],
) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if objective.mode == "max" else "minimize")
    ranges = {key: distribution(space.parameters[key]) for key in keys}
    for record, value in known:
        params = as_params({key: record.values[key] for key in keys})
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        # Optuna warns of parameters with the same value in all trials; their share is 0.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=list(keys)
        )
