"""Plan of a sweep: options of the command, checked before anything starts."""

from __future__ import annotations

import argparse
import itertools
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
    shown_overrides,
    shown_url,
)
from runner.sweep.space import SearchSpace, check_space, load_space
from runner.sweep.space_file import read_space_file
from tasks.schema import Benchmark

DEFAULT_PRESET = "demo-sweep"
DEFAULT_TRIALS = 12
FORBIDDEN_OVERRIDES = {
    "storage.root": "trials are stored in the sweep's folder; set --sweeps and --name",
    "run.name": "runs of a trial are named by their seeds; set the sweep's name with --name",
    "seed": "use --seeds",
    "preset": "use --preset",
}
TRIAL_OVERRIDES = ("cluster.num_workers=0", "checkpoints.keep_domains=false")
"""Defaults of trials that differ from those of runs: a trial computes in its own process, and does
not keep a checkpoint of every domain."""
_NEED_TWO_DOMAINS = ("forgetting_mAP", "backward_transfer_mAP")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep to start or to resume.

    Attributes:
        folder: folder of the sweep.
        settings: settings; `concurrent` is 0 if as many trials as fit run at the same time.
        space: search space, resolved for `config`.
        space_text: text of the search space's file.
        config: base configuration, without the overrides of trials.
        resumed: whether the sweep exists and is resumed.
        shares_images: whether images are decoded once for all trials.
    """

    folder: Path
    settings: SweepSettings
    space: SearchSpace
    space_text: str
    config: RunConfig
    resumed: bool
    shares_images: bool = True

    @property
    def trial_overrides(self) -> tuple[str, ...]:
        """Overrides of every trial; sampled values take precedence."""
        return (*TRIAL_OVERRIDES, *self.settings.overrides)

    @property
    def trial_config(self) -> RunConfig:
        """Configuration of a trial without sampled values."""
        return check_space(self.space, self.settings.preset, self.trial_overrides)


def make_plan(options: argparse.Namespace) -> SweepPlan:
    """Creates the plan from the options of the command `sweep`.

    Raises:
        ValueError: an option is invalid.
        FileNotFoundError: the sweep to resume does not exist.
    """
    space = load_space(options.space)
    preset = _preset(options.preset or space.preset or DEFAULT_PRESET)
    name = options.name or f"{space.name}-{Path(preset).stem}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"--name: expected only letters, digits and . _ -, got {name!r}")
    folder = base_folder() / Path(options.sweeps).expanduser() / name
    given, exists = _given(options, preset), (folder / SETTINGS_FILE).exists()
    if options.resume:
        settings = _resumed_settings(read_settings(folder), given, options.overrides)
    else:
        settings = _new_settings(
            {"name": name, "preset": preset, **given}, tuple(options.overrides)
        )
        if exists:
            settings = _repeated_settings(folder, read_settings(folder), settings)
    if exists:
        _check_same_space(folder, space)
    _check_settings(settings)
    config = check_space(space, settings.preset, settings.overrides)
    return SweepPlan(
        folder, settings, space.within(config), space.text, config,
        exists, shares_images=not options.no_sharing,
    )  # fmt: skip


def check_objectives(
    objectives: tuple[Objective, ...], benchmark: Benchmark, every_epochs: int = 0
) -> None:
    """Checks that the validation identities of the benchmark provide the objectives.

    With `evaluation.every_epochs` > 0, only the learned domain is evaluated at candidate epochs.

    Raises:
        ValueError: an objective has no value; the message has the reason.
    """
    missing = [each.name for each in benchmark.seen if not each.validation.query]
    unseen = [each.name for each in benchmark.unseen if each.validation.query]
    for name in (objective.name for objective in objectives):
        if every_epochs and name.startswith("unseen_"):
            raise ValueError(
                f"--objective {name}: candidate epochs are not evaluated on unseen domains; choose "
                "seen_mAP or seen_R1, or set evaluation.every_epochs=0"
            )
        if name.startswith("unseen_") and not unseen:
            names = ", ".join(each.name for each in benchmark.unseen) or "there are none"
            raise ValueError(
                f"--objective {name}: a sweep uses only validation identities, and no unseen "
                f"domain has any ({names}); choose seen_mAP"
            )
        if not name.startswith("unseen_") and missing:
            raise ValueError(
                f"--objective {name}: {', '.join(missing)} has no validation identities; increase "
                "benchmark.num_validation_identities"
            )
        if name in _NEED_TWO_DOMAINS and len(benchmark.steps) < 2:
            raise ValueError(
                f"--objective {name}: needs at least 2 learned domains, got "
                f"{len(benchmark.steps)}; choose seen_mAP"
            )


def _preset(text: str) -> str:
    """Name of a preset, or absolute path of a file (trials have another working directory)."""
    return text if text in preset_names() else str(Path(text).expanduser().resolve())


def _given(options: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Settings given as options, by name; parsed but not yet checked."""
    values = {
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
    given = {key: value for key, value in values.items() if value is not None}
    flags = {"num_trials": "--trials", "concurrent": "--concurrent", "grace": "--grace"}
    for key, flag in flags.items():
        if given.get(key, 1) < 1:
            raise ValueError(f"{flag}: expected at least 1, got {given[key]}")
    return given


def _new_settings(given: dict[str, Any], overrides: tuple[str, ...]) -> SweepSettings:
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


def _resumed_settings(
    stored: SweepSettings, given: dict[str, Any], overrides: list[str]
) -> SweepSettings:
    """Stored settings, updated by the options that may change when a sweep is resumed."""
    free = {key: given[key] for key in ("num_trials", "concurrent", "storage") if key in given}
    if stored.storage and "***" in stored.storage and "storage" not in free:
        raise ValueError(
            f"--study: the sweep's study is at {stored.storage}, whose password is not stored; "
            "give the complete URL again"
        )
    fixed = {key: value for key, value in given.items() if key not in free}
    if overrides and shown_overrides(overrides) == shown_overrides(stored.overrides):
        free["overrides"] = tuple(overrides)  # the stored ones have no passwords
    elif overrides:
        fixed["overrides"] = tuple(overrides)
    for key, value in fixed.items():
        if value != getattr(stored, key):
            raise ValueError(
                f"--resume: the sweep was started with {_as_option(key, getattr(stored, key))}, "
                f"got {_as_option(key, value)}; omit it, or start another sweep with --name"
            )
    return replace(stored, **free)


def _repeated_settings(folder: Path, stored: SweepSettings, given: SweepSettings) -> SweepSettings:
    """Settings of a sweep that is resumed by repeating the command that started it.

    A job that is submitted again therefore needs no --resume.
    """
    settings = replace(given, concurrent=given.concurrent or stored.concurrent)
    compared = replace(
        settings,
        concurrent=stored.concurrent,
        storage=shown_url(settings.storage),
        overrides=shown_overrides(settings.overrides),
    )
    shown = asdict(stored) | {"overrides": shown_overrides(stored.overrides)}
    for key, before in shown.items():
        if (after := getattr(compared, key)) != before:
            raise ValueError(
                f"{folder}: contains a sweep that was started with {_as_option(key, before)}, got "
                f"{_as_option(key, after)}; resume it with --resume, or start another with --name"
            )
    return settings


def _as_option(key: str, value: Any) -> str:
    """Setting as an option of the command line."""
    if key == "default_first":
        return "the default trial" if value else "--no-default"
    if key == "overrides":
        return " ".join(shown_overrides(value)) or "no overrides"
    flags = {"num_trials": "--trials", "storage": "--study"}
    flag = flags.get(key, f"--{key.replace('_', '-')}")
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"no {flag}" if text is None else f"{flag} {text}"


def _check_same_space(folder: Path, space: SearchSpace) -> None:
    """Checks that a resumed sweep has the parameters it was started with, in the same order.

    Comments and the layout of the file may differ.
    """
    copy = folder / SPACE_FILE
    if not copy.is_file() or copy.read_text(encoding="utf-8") == space.text:
        return
    stored = read_space_file(copy)
    if (stored.preset, stored.parameters) != (space.preset, space.parameters):
        difference = _first_difference(stored.text, space.text)
    elif list(stored.parameters) != list(space.parameters):
        difference = "its parameters are in another order, and samplers draw them in this order"
    else:
        return
    raise ValueError(
        f"search space {space.name}: differs from the one that the sweep in {folder} was started "
        f"with: {difference}; give {copy}, or start another sweep with --name"
    )


def _first_difference(before: str, after: str) -> str:
    """Describes the first line that differs between files with different parameters."""
    lines = itertools.zip_longest(before.splitlines(), after.splitlines())
    number, was, now = next((n, was, now) for n, (was, now) in enumerate(lines, 1) if was != now)
    return f"line {number} was {_quoted(was)}, got {_quoted(now)}"


def _quoted(line: str | None) -> str:
    return "absent" if line is None else repr(line.strip())


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
            f"--scheduler {settings.scheduler}: expected one objective, got "
            f"{len(objectives)} ({settings.objective}); omit it, or choose one objective"
        )
    if settings.sampler_seed < 0:
        raise ValueError(f"--sampler-seed: expected at least 0, got {settings.sampler_seed}")
    for override in settings.overrides:
        key = override.partition("=")[0]
        if key in FORBIDDEN_OVERRIDES:
            raise ValueError(f"override {override!r}: {FORBIDDEN_OVERRIDES[key]}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(each) for each in text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds: expected integers like 0,1,2, got {text!r}") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds: expected different numbers >= 0, got {text!r}")
    return cast(tuple[int, ...], seeds)
