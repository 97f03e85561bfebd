"""From the command's options to a sweep that is known to be possible, before anything starts."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from runner.config.run_config import RunConfig, base_folder, preset_names
from runner.sweep.objectives import Objective, parse_objectives
from runner.sweep.settings import (
    SETTINGS_FILE,
    SPACE_FILE,
    Sampler,
    Scheduler,
    SweepSettings,
    read_settings,
    shown_url,
)
from runner.sweep.space import SearchSpace, check_space, load_space
from tasks.schema import Benchmark

DEFAULT_PRESET = "demo-sweep"
DEFAULT_TRIALS = 12
REFUSED = {
    "storage.root": "trials are kept in the sweep's folder; choose it by --sweeps and --name",
    "run.name": "a trial's runs are named by their seeds; name the sweep by --name",
    "seed": "a sweep has seeds of its own: --seeds",
    "preset": "choose it by --preset",
}
OF_TRIALS = ("cluster.num_workers=0", "checkpoints.keep_domains=false")
"""Where a trial differs from a run, unless it is overridden: it computes in its own process, and
keeps no learner of every domain."""
_NEED_TWO = ("forgetting_mAP", "backward_transfer_mAP")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep to begin or to go on with.

    Attributes:
        folder: of the sweep.
        settings: what it is asked to do; `concurrent` is 0 where as many as fit shall run.
        space: what is searched, within `config`.
        text: the search space's file.
        config: what every trial begins with, as the user's own run would have it.
        resumed: whether it goes on.
        shares: whether images are decoded once for all trials.
    """

    folder: Path
    settings: SweepSettings
    space: SearchSpace
    text: str
    config: RunConfig
    resumed: bool
    shares: bool = True

    @property
    def trial_overrides(self) -> tuple[str, ...]:
        """Of every trial, below the sampled values."""
        return (*OF_TRIALS, *self.settings.overrides)

    @property
    def trial_config(self) -> RunConfig:
        """Of a trial, without sampled values."""
        return check_space(self.space, self.settings.preset, self.trial_overrides)


def make_plan(options: argparse.Namespace) -> SweepPlan:
    """What the options of `sweep` ask for.

    Raises:
        ValueError: with the option that is wrong, what came, and what would do.
        FileNotFoundError: --resume, and there is no such sweep.
    """
    space = load_space(options.space)
    preset = _preset(options.preset or space.preset or DEFAULT_PRESET)
    name = options.name or f"{space.name}-{Path(preset).stem}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"--name: expected letters, digits and . _ - alone; got {name!r}")
    folder = base_folder() / Path(options.sweeps).expanduser() / name
    given, begun = _given(options, preset), (folder / SETTINGS_FILE).exists()
    if options.resume:
        settings = _same(read_settings(folder), given, options.overrides)
    else:
        settings = _new({"name": name, "preset": preset, **given}, tuple(options.overrides))
        if begun:
            settings = _unchanged(folder, read_settings(folder), settings)
    if begun:
        _check_same_space(folder, space)
    _check_settings(settings)
    config = check_space(space, settings.preset, settings.overrides)
    return SweepPlan(
        folder, settings, space.within(config), space.text, config,
        begun, shares=not options.no_sharing,
    )  # fmt: skip


def check_objectives(objectives: tuple[Objective, ...], benchmark: Benchmark) -> None:
    """Refuses what this benchmark's validation identities cannot give.

    Raises:
        ValueError: says what lacks.
    """
    lacking = [each.name for each in benchmark.seen if not each.validation.query]
    unseen = [each.name for each in benchmark.unseen if each.validation.query]
    for name in (objective.name for objective in objectives):
        if name.startswith("unseen_") and not unseen:
            among = ", ".join(each.name for each in benchmark.unseen) or "there are none"
            raise ValueError(
                f"--objective {name}: a sweep looks at validation identities alone, and no unseen "
                f"domain has any ({among}); choose seen_mAP"
            )
        if not name.startswith("unseen_") and lacking:
            raise ValueError(
                f"--objective {name}: {', '.join(lacking)} has no validation identities; raise "
                "benchmark.num_validation_identities"
            )
        if name in _NEED_TWO and len(benchmark.steps) < 2:
            raise ValueError(
                f"--objective {name}: what is forgotten shows after a second domain, and "
                f"{len(benchmark.steps)} is learned; choose seen_mAP"
            )


def _preset(text: str) -> str:
    """A name, or a file's whole path: a trial's current folder is another."""
    return text if text in preset_names() else str(Path(text).expanduser().resolve())


def _given(options: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Settings that were said, by their names; parsed, not judged."""
    said = {
        "preset": preset if options.preset else None,
        "num_trials": options.trials,
        "concurrent": options.concurrent,
        "sampler": options.sampler,
        "scheduler": options.scheduler,
        "objective": options.objective,
        "seeds": None if options.seeds is None else _seeds(options.seeds),
        "sampler_seed": options.sampler_seed,
        "storage": options.study,
        "default_first": False if options.no_default else None,
        "grace": options.grace,
    }
    wanted = {key: value for key, value in said.items() if value is not None}
    flags = {"num_trials": "--trials", "concurrent": "--concurrent", "grace": "--grace"}
    for key, flag in flags.items():
        if wanted.get(key, 1) < 1:
            raise ValueError(f"{flag}: expected at least 1, got {wanted[key]}")
    return wanted


def _new(given: dict[str, Any], overrides: tuple[str, ...]) -> SweepSettings:
    several = "," in given.get("objective", "")
    values: dict[str, Any] = {
        "num_trials": DEFAULT_TRIALS,
        "concurrent": 0,
        "sampler": "tpe",
        "scheduler": "none" if several else "asha",
        "objective": "seen_mAP",
        "seeds": (0,),
        "sampler_seed": 0,
    }
    return SweepSettings(**{**values, **given, "overrides": overrides})


def _same(kept: SweepSettings, given: dict[str, Any], overrides: list[str]) -> SweepSettings:
    """The kept settings, with what may change between a sweep's starts."""
    free = {key: given[key] for key in ("num_trials", "concurrent", "storage") if key in given}
    if kept.storage and "***" in kept.storage and "storage" not in free:
        raise ValueError(
            f"--study: the sweep's study is at {kept.storage}, whose password is not kept; give "
            "the whole URL again"
        )
    held = {key: value for key, value in given.items() if key not in free}
    if overrides:
        held["overrides"] = tuple(overrides)
    for key, value in held.items():
        if value != getattr(kept, key):
            raise ValueError(
                f"--resume: the sweep was begun with {_typed(key, getattr(kept, key))}, and "
                f"{_typed(key, value)} came; leave it out, or begin another sweep by --name"
            )
    return replace(kept, **free)


def _unchanged(folder: Path, kept: SweepSettings, wanted: SweepSettings) -> SweepSettings:
    """The kept settings, where the command that began the sweep came once more: it goes on.

    A job that is submitted again needs no other command than at first.
    """
    now = replace(wanted, concurrent=wanted.concurrent or kept.concurrent)
    shown = replace(now, concurrent=kept.concurrent, storage=shown_url(now.storage))
    for key, before in asdict(kept).items():
        if (after := getattr(shown, key)) != before:
            raise ValueError(
                f"{folder} holds a sweep that was begun with {_typed(key, before)}, and "
                f"{_typed(key, after)} came; go on with it by --resume, or begin another by --name"
            )
    return now


def _typed(key: str, value: Any) -> str:
    """A setting as it is typed."""
    if key == "default_first":
        return "the preset's own values first" if value else "--no-default"
    if key == "overrides":
        return " ".join(value) or "no overrides"
    flags = {"num_trials": "--trials", "storage": "--study"}
    flag = flags.get(key, f"--{key.replace('_', '-')}")
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"no {flag}" if text is None else f"{flag} {text}"


def _check_same_space(folder: Path, space: SearchSpace) -> None:
    copy = folder / SPACE_FILE
    if copy.is_file() and copy.read_text(encoding="utf-8") != space.text:
        raise ValueError(
            f"search space {space.name} is not what the sweep in {folder} was begun with; give "
            f"{copy}, or begin another sweep by --name"
        )


def _check_settings(settings: SweepSettings) -> None:
    objectives = parse_objectives(settings.objective)
    if settings.sampler not in get_args(Sampler):
        raise ValueError(
            f"--sampler: expected one of {', '.join(get_args(Sampler))}; got {settings.sampler!r}"
        )
    if settings.scheduler not in get_args(Scheduler):
        raise ValueError(
            f"--scheduler: expected one of {', '.join(get_args(Scheduler))}; "
            f"got {settings.scheduler!r}"
        )
    if len(objectives) > 1 and settings.scheduler != "none":
        raise ValueError(
            f"--scheduler {settings.scheduler} stops trials by one objective, and "
            f"{settings.objective} are {len(objectives)}; leave it out, or choose one objective"
        )
    if settings.sampler_seed < 0:
        raise ValueError(f"--sampler-seed: expected at least 0, got {settings.sampler_seed}")
    for override in settings.overrides:
        key = override.partition("=")[0]
        if key in REFUSED:
            raise ValueError(f"override {override!r}: {REFUSED[key]}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(each) for each in text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds: expected numbers like 0,1,2; got {text!r}") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds: expected different numbers from 0 on; got {text!r}")
    return cast(tuple[int, ...], seeds)
