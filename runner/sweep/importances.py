"""How much of an objective's spread over the trials each parameter explains, by Optuna's fANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.sweep.objectives import Objective
from runner.sweep.parameters import Choices, IntRange, stored
from runner.sweep.space import AnyParameter, SearchSpace, as_params
from runner.sweep.trial_records import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 6
"""Finished trials below which a forest of trees finds importances in noise."""


@dataclass(frozen=True)
class Importance:
    """Of one parameter.

    Attributes:
        share: of the variance explained by all parameters that were compared, in [0, 1].
        num_trials: finished ones that it comes from.
        is_conditional: whether it is of the trials in which the parameter applied, and so not
            comparable with those of all trials.
    """

    share: float
    num_trials: int
    is_conditional: bool


@dataclass(frozen=True)
class Importances:
    """Of one objective.

    Attributes:
        of: by key, most important first.
        num_trials: finished ones with a value.
        why: nothing, or nothing of some parameters, is known; "" where all is.
    """

    of: Mapping[str, Importance]
    num_trials: int
    why: str = ""


def importances(
    records: Sequence[TrialRecord], space: SearchSpace, objective: Objective
) -> Importances:
    """Hutter et al. (ICML 2014) over the finished trials; stopped ones have learned less.

    A conditional parameter is compared with the others in the trials in which it applied.
    """
    known = [
        (record, value) for record in records if (value := final(record, objective)) is not None
    ]
    num_known = len(known)
    if num_known < MIN_TRIALS:
        return Importances({}, num_known, f"too few trials: {num_known} of {MIN_TRIALS} finished")
    if len({value for _, value in known}) == 1:
        return Importances({}, num_known, f"all {num_known} finished trials are equal")
    common = [key for key in space.parameters if all(key in each.values for each, _ in known)]
    found = {
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
        some = [(record, value) for record, value in known if record.number in applied]
        if len(some) < MIN_TRIALS or len({value for _, value in some}) == 1:
            few += [f"{key} ({len(some)})" for key in keys]
            continue
        always = [key for key in space.parameters if all(key in each.values for each, _ in some)]
        shares = _shares(some, space, objective, always)
        for key in keys:
            found[key] = Importance(shares.get(key, 0.0), len(some), is_conditional=True)
    ordered = sorted(found.items(), key=lambda item: -item[1].share)
    why = f"too few trials in which these applied: {', '.join(few)}" if few else ""
    return Importances(dict(ordered), num_known, why)


def final(record: TrialRecord, objective: Objective) -> float | None:
    """A finished trial's value; None of all others."""
    return objective.of(record.last) if record.state == "finished" and record.last else None


def distribution(parameter: AnyParameter) -> BaseDistribution:
    """The parameter's range as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choices):
        return CategoricalDistribution([stored(each) for each in parameter.choices])
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
        # Of parameters that have one value in all trials, which explain nothing.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=list(keys)
        )
