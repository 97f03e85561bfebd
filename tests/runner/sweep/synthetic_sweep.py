"""Synthetic sweeps: folders written by the product, with scores from a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from runner.config.run_config import RunConfig, load_config
from runner.results.run_folder import RunStorage
from runner.sweep.settings import SweepSettings, write_settings
from runner.sweep.space import SearchSpace, as_overrides, load_space
from runner.sweep.trial_records import Report, State, TrialRecord, trial_folder, write_record

DOMAINS = ("plaza", "station", "office", "night")
NAMES = (
    *("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1"),
    *("average_incremental_mAP", "backward_transfer_mAP", "forgetting_mAP"),
)


def settings_of(name: str = "demo-demo-sweep", **changes: Any) -> SweepSettings:
    """Settings of a sweep of twelve trials over the space `demo`."""
    given: dict[str, Any] = {
        "name": name, "preset": "demo-sweep", "overrides": (), "num_trials": 12, "concurrent": 2,
        "sampler": "tpe", "scheduler": "asha", "objective": "seen_mAP", "seeds": (0,),
        "sampler_seed": 0,
    }  # fmt: skip
    return SweepSettings(**{**given, **changes})


def sampled(space: SearchSpace, config: RunConfig, num: int) -> list[dict[str, Any]]:
    """Values of the preset if they are in the space, then random values."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    default = space.default_point(config).values
    random = [space.within(config).suggest(study.ask()) for _ in range(num)]
    return ([default] if default else [])[:num] + random[: num - bool(default)]


def scores_of(values: dict[str, Any], learned: int) -> dict[str, float | None]:
    """Scores that are smooth in numbers, differ between choices, and decrease with more domains."""
    total = 0.0
    for key, value in values.items():
        weight = 1 + sum(map(ord, key)) % 7
        if isinstance(value, bool | str | list | tuple) or value is None:
            total += weight * (len(str(value)) % 4) / 4
        else:
            total += weight * math.sin(math.log(abs(float(value)) + 1e-6) + weight)
    level = 55 + total - 2.5 * learned
    scores: dict[str, float | None] = {name: level + index for index, name in enumerate(NAMES)}
    return scores | {"forgetting_mAP": 5 + math.cos(total) * 3 + learned / 3}


def record_of(
    number: int,
    values: dict[str, Any],
    state: State = "finished",
    learned: int = 4,
    reason: str | None = None,
) -> TrialRecord:
    """Record of a trial that learned this many domains, 30 s each."""
    record = TrialRecord(number, values, state, began=1_700_000_000.0 + 100 * number, reason=reason)
    for domain in range(1, learned + 1):
        scores = scores_of(values, domain)
        test = {key: value and value - 3 for key, value in scores.items()}
        name = DOMAINS[(domain - 1) % len(DOMAINS)]
        record = record.with_report(Report(domain, name, scores, test, 30.0 * domain))
    if state == "running":
        return record
    ended = 1_700_000_000.0 + 100 * number + 30 * learned
    return TrialRecord(**{**vars(record), "ended": ended})


def write_sweep(
    folder: Path,
    settings: SweepSettings,
    space_name: str = "demo",
    num: int | None = None,
    states: Sequence[tuple[State, int]] = (),
) -> tuple[SearchSpace, RunConfig]:
    """Writes settings, records, and the configuration of every trial's first run.

    Args:
        folder: folder of the sweep.
        settings: settings of the sweep.
        space_name: name in search_spaces/.
        num: number of trials; default all.
        states: state and number of domains of trials from the second on; later ones finish.
    """
    folder.mkdir(parents=True)
    write_settings(folder, settings)
    config = load_config(settings.preset, settings.overrides)
    space = load_space(space_name).within(config)
    for number, values in enumerate(sampled(space, config, num or settings.num_trials)):
        ends = states[number - 1] if 0 < number <= len(states) else ("finished", 4)
        reason = "loss is not finite in iteration 7" if ends[0] == "failed" else None
        write_record(folder, record_of(number, values, *ends, reason=reason))
        write_run(folder, settings, number, values)
    return space, config


def write_run(folder: Path, settings: SweepSettings, number: int, values: dict[str, Any]) -> Path:
    """Writes the configuration of a trial's first run."""
    root = trial_folder(folder, number)
    name = f"seed{settings.seeds[0]}"
    own = [f"storage.root={root}", f"run.name={name}", f"seed={settings.seeds[0]}"]
    own += ["cluster.num_workers=0", "tracking.uri=null", "checkpoints.keep_domains=false"]
    config = load_config(settings.preset, [*settings.overrides, *as_overrides(values), *own])
    storage = RunStorage(root / name)
    storage.open(config, fresh=False)
    storage.close()
    return storage.folder
