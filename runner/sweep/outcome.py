"""What a sweep leaves behind: its best configuration as a preset, tables, and pictures."""

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

BEST_FILE = "best.yaml"
PARETO_FOLDER = "pareto"


@dataclass(frozen=True)
class Outcome:
    """What is known of a sweep now; it may still be running.

    Attributes:
        folder: of the sweep.
        settings: what it was asked to do.
        space: what is searched.
        records: of all its trials.
        best: the finished trial with the best first objective.
        default: trial 0, if it is the configuration's own values.
        own: the configuration's own values of the parameters that apply, by key.
        why_not_own: why no trial can have these; None where one can.
        front: of several objectives; empty with one.
        importances: by objective.
        num_domains: that a trial learns if it is not stopped, over all its seeds.
        preset: best.yaml, or None where there is no best trial.
    """

    folder: Path
    settings: SweepSettings
    space: SearchSpace
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    default: TrialRecord | None
    own: Mapping[str, Any]
    why_not_own: str | None
    front: tuple[TrialRecord, ...]
    importances: Mapping[str, Importances]
    num_domains: int
    preset: Path | None

    @property
    def objective(self) -> Objective:
        """The first, by which trials are ordered."""
        return self.settings.objectives[0]

    @property
    def keys(self) -> list[str]:
        """Configuration paths of the parameters."""
        return list(self.space.parameters)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        counted = Counter(record.state for record in self.records)
        states = ("finished", "stopped", "failed", "running")
        return {state: counted[state] for state in states if counted[state]}

    @property
    def domains_run(self) -> int:
        """Learned by all trials together."""
        return sum(record.last.learned_domains for record in self.records if record.last)

    @property
    def domains_saved(self) -> int:
        """That stopped trials would have gone on to learn."""
        return sum(
            self.num_domains - (record.last.learned_domains if record.last else 0)
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
    """The outcome without writing anything; arguments as of `write_outcome`."""
    records, objectives = tuple(read_records(folder)), settings.objectives
    best = best_trial(records, objectives[0])
    has_preset = best is not None and config_file(folder, settings, best).is_file()
    default_point, settings_own = space.default_point(config), flatten(config)
    own = {
        key: settings_own[key]
        for key, parameter in space.parameters.items()
        if key in settings_own and parameter.applies(settings_own)
    }
    return Outcome(
        folder=folder,
        settings=settings,
        space=space,
        records=records,
        best=best,
        default=_default_trial(records, default_point),
        own=own,
        why_not_own=default_point.reason,
        front=tuple(pareto_front(records, objectives)) if len(objectives) > 1 else (),
        importances={
            each.name: importances(records, space, each) for each in objectives if not quick
        },
        num_domains=domains_of(config, settings),
        preset=folder / BEST_FILE if has_preset else None,
    )


def domains_of(config: RunConfig, settings: SweepSettings) -> int:
    """Domains that a whole trial learns, over all its seeds."""
    return len(seen_and_unseen(config.benchmark)[0]) * len(settings.seeds)


def shown_path(path: Path) -> str:
    """A path as it is typed: relative to the folder that presets are looked up in."""
    return str(path.relative_to(base_folder()) if path.is_relative_to(base_folder()) else path)


def _default_trial(records: Sequence[TrialRecord], default: DefaultPoint) -> TrialRecord | None:
    """Trial 0 if its values are the configuration's own."""
    first = next((record for record in records if record.number == 0), None)
    if first is None or default.values is None or first.values.keys() != default.values.keys():
        return None
    own = default.values
    return first if all(same(first.values[key], own[key]) for key in own) else None


def config_file(folder: Path, settings: SweepSettings, trial: TrialRecord) -> Path:
    """config.yaml of the first seed of a trial."""
    run = trial_folder(folder, trial.number) / f"seed{settings.seeds[0]}"
    return RunStorage(run).config_file
