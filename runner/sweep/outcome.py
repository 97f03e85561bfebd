"""Results of a sweep: its trials, the best of them, the Pareto front, and importances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.run_config import RunConfig, base_folder, flatten
from runner.results.run_folder import RunStorage
from runner.sweep.importances import Importances, importances
from runner.sweep.objectives import Objective, best_trial, pareto_front
from runner.sweep.parameters import same
from runner.sweep.settings import SweepSettings
from runner.sweep.space import DefaultPoint, SearchSpace
from runner.sweep.trial_records import TrialRecord, read_records, trial_folder
from tasks.benchmarks import seen_and_unseen

BEST_FILE, BEST_VALUES_FILE = "best.yaml", "best-values.yaml"
PARETO_FOLDER = "pareto"


@dataclass(frozen=True)
class Outcome:
    """Results of a sweep, which may still be running.

    Attributes:
        folder: folder of the sweep.
        settings: settings of the sweep.
        space: search space.
        records: records of all trials.
        best: finished trial with the best value of the first objective.
        default: trial 0 if it has the values of the preset, otherwise None.
        preset_values: values of the preset for the parameters that apply, by key.
        why_no_default: reason why no trial can have `preset_values`; None if one can.
        front: Pareto front; empty with one objective.
        importances: parameter importances by objective.
        num_domains: domains that a complete trial learns, over all its seeds.
        by_epoch: whether trials report after candidate epochs of a single domain.
        preset: best.yaml; None without a best trial.
    """

    folder: Path
    settings: SweepSettings
    space: SearchSpace
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    default: TrialRecord | None
    preset_values: Mapping[str, Any]
    why_no_default: str | None
    front: tuple[TrialRecord, ...]
    importances: Mapping[str, Importances]
    num_domains: int
    by_epoch: bool
    preset: Path | None

    @property
    def objective(self) -> Objective:
        """First objective, by which trials are ordered."""
        return self.settings.objectives[0]

    @property
    def keys(self) -> list[str]:
        """Configuration paths of the parameters."""
        return list(self.space.parameters)

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by state."""
        counted = Counter(record.state for record in self.records)
        states = ("finished", "stopped", "failed", "running")
        return {state: counted[state] for state in states if counted[state]}

    @property
    def unit(self) -> str:
        """Unit of the progress of trials: "domain" or "epoch"."""
        return "epoch" if self.by_epoch else "domain"

    @property
    def progress_run(self) -> int:
        """Number of domains, or of epochs, of all trials together."""
        return sum(record.progress for record in self.records)

    @property
    def progress_saved(self) -> int:
        """Number of domains, or of epochs, that stopped trials did not learn."""
        stopped = [each.last for each in self.records if each.state == "stopped" and each.last]
        return sum(
            (last.planned_epochs if self.by_epoch else self.num_domains) or 0 for last in stopped
        ) - sum(last.progress for last in stopped)

    @property
    def domains_run(self) -> int:
        """Number of domains learned by all trials together."""
        return sum(record.learned_domains for record in self.records)

    @property
    def domains_saved(self) -> int:
        """Number of domains that stopped trials did not learn."""
        return sum(
            self.num_domains - record.learned_domains
            for record in self.records
            if record.state == "stopped"
        )


def gather(
    folder: Path,
    settings: SweepSettings,
    space: SearchSpace,
    config: RunConfig,
    *,
    quick: bool = False,
) -> Outcome:
    """Reads the outcome from the sweep's folder; arguments as in `write_outcome`."""
    records, objectives = tuple(read_records(folder)), settings.objectives
    best = best_trial(records, objectives[0])
    has_preset = best is not None and config_file(folder, settings, best).is_file()
    default_point, all_values = space.default_point(config), flatten(config)
    preset_values = {
        key: all_values[key]
        for key, parameter in space.parameters.items()
        if key in all_values and parameter.applies(all_values)
    }
    return Outcome(
        folder=folder,
        settings=settings,
        space=space,
        records=records,
        best=best,
        default=_default_trial(records, default_point),
        preset_values=preset_values,
        why_no_default=default_point.reason,
        front=tuple(pareto_front(records, objectives)) if len(objectives) > 1 else (),
        importances={
            each.name: importances(records, space, each) for each in objectives if not quick
        },
        num_domains=domains_of(config, settings),
        by_epoch=bool(config.evaluation.every_epochs),
        preset=folder / BEST_FILE if has_preset else None,
    )


def domains_of(config: RunConfig, settings: SweepSettings) -> int:
    """Number of domains that a complete trial learns, over all its seeds."""
    return len(seen_and_unseen(config.benchmark)[0]) * len(settings.seeds)


def shown_path(path: Path) -> str:
    """Path relative to the base folder of presets if it is below it, otherwise the whole path."""
    return str(path.relative_to(base_folder()) if path.is_relative_to(base_folder()) else path)


def _default_trial(records: Sequence[TrialRecord], default: DefaultPoint) -> TrialRecord | None:
    """Trial 0 if it has the values of the configuration."""
    first = next((record for record in records if record.number == 0), None)
    if first is None or default.values is None or first.values.keys() != default.values.keys():
        return None
    is_default = all(same(first.values[key], value) for key, value in default.values.items())
    return first if is_default else None


def config_file(folder: Path, settings: SweepSettings, trial: TrialRecord) -> Path:
    """Path of config.yaml of a trial's first seed."""
    run = trial_folder(folder, trial.number) / f"seed{settings.seeds[0]}"
    return RunStorage(run).config_file
