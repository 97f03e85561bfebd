"""Samplers of Optuna whose proposals do not depend on when the sweep was interrupted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from runner.sweep.settings import Sampler, SweepSettings
from tasks.loading.sampling import derive_seed


class ReproducibleSampler(BaseSampler):
    """Sampler whose random numbers are a function of trial number and parameter.

    A sampler of Optuna continues one random stream over all trials and starts it again when the
    process starts again. Here every proposal is made by a new sampler, so that it depends only on
    the seed, the number of the trial, the parameter and the trials in the study. A trial that was
    interrupted while its values were being stored gets the missing values that it would have got;
    the only exception is `gp`, which reads the values stored so far.

    Args:
        create: creates a sampler from a seed.
        seed: random seed.
    """

    def __init__(self, create: Callable[[int], BaseSampler], seed: int) -> None:
        self._create = create
        self._seed = seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Parameters that are sampled jointly."""
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Samples parameters jointly."""
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Samples one parameter."""
        sampler = self._sampler(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Calls the sampler's hook."""
        self._sampler(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Calls the sampler's hook."""
        self._sampler(trial).after_trial(study, trial, state, values)

    def _sampler(self, trial: FrozenTrial, parameter: str = "") -> BaseSampler:
        return self._create(derive_seed(self._seed, "sampler", trial.number, parameter) % 2**32)


def make_sampler(settings: SweepSettings) -> BaseSampler:
    """Creates the sampler of a sweep from its kind, its seed and the number of trials."""
    # With the defaults of Optuna (10 random trials, populations of 50) all trials of a small sweep
    # would be random.
    num_random = max(2, min(10, settings.num_trials // 4))

    def create(seed: int) -> BaseSampler:
        match settings.sampler:
            case "tpe":
                is_parallel = settings.concurrent > 1
                return TPESampler(seed=seed, n_startup_trials=num_random, constant_liar=is_parallel)
            case "random":
                return RandomSampler(seed=seed)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=num_random)
            case "nsga2":
                population_size = max(4, min(50, settings.num_trials // 4))
                return NSGAIISampler(seed=seed, population_size=population_size)

    return ReproducibleSampler(create, settings.sampler_seed)


def check_sampler(sampler: Sampler) -> None:
    """Checks that the libraries of a sampler are installed.

    Raises:
        ValueError: a library is missing; the message has the command that installs it.
    """
    missing = [each for each in ("scipy", "torch") if importlib.util.find_spec(each) is None]
    if sampler == "gp" and missing:
        raise ValueError(
            f"--sampler gp needs {' and '.join(missing)}: pip install {' '.join(missing)}, or "
            "choose tpe"
        )
