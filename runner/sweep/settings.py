"""Settings of a sweep, stored in its folder so that the sweep can be resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runner.config.redaction import masked_override, masked_uri
from runner.results.run_folder import write_atomically
from runner.sweep.objectives import Objective, parse_objectives

SETTINGS_FILE = "sweep.json"
SPACE_FILE = "space.yaml"
STUDY_FILE = "study.db"

Sampler = Literal["tpe", "random", "gp", "nsga2"]
Scheduler = Literal["asha", "median", "none"]


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep.

    Attributes:
        name: name of the folder, the Optuna study and the MLflow parent run.
        preset: base configuration of every trial.
        overrides: `key=value` overrides of every trial; sampled values take precedence.
        num_trials: number of finished, stopped and failed trials together.
        concurrent: number of trials that run at the same time.
        sampler: algorithm that proposes values.
        scheduler: algorithm that stops trials early.
        objective: names of the objectives, separated by commas.
        seeds: seeds of a trial's runs; their scores are averaged.
        sampler_seed: random seed of the sampler.
        storage: URL of the Optuna study; None is SQLite in the sweep's folder.
        default_first: whether the first trial has the values of the preset.
        grace: number of reports (domains, or candidate epochs of a single domain) that every trial
            makes before the scheduler may stop it.
    """

    name: str
    preset: str
    overrides: tuple[str, ...]
    num_trials: int
    concurrent: int
    sampler: Sampler
    scheduler: Scheduler
    objective: str
    seeds: tuple[int, ...]
    sampler_seed: int
    storage: str | None = None
    default_first: bool = True
    grace: int = 2

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Parsed objectives."""
        return parse_objectives(self.objective)

    def study_url(self, folder: Path) -> str:
        """URL of the Optuna study."""
        return self.storage or f"sqlite:///{folder / STUDY_FILE}"


def shown_url(url: str | None) -> str | None:
    """URL of a study with the password masked."""
    return url and masked_uri(parse_url(url).render_as_string(hide_password=True))


def shown_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides with passwords masked."""
    return tuple(map(masked_override, overrides))


def parse_url(url: str) -> URL:
    """Parses the URL of a study's database.

    Raises:
        ValueError: the text is not a URL, or the database is not supported.
    """
    try:
        parsed = make_url(url)
        parsed.get_dialect()
        return parsed
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(
            "--study: expected the URL of a database, like sqlite:////folder/study.db or "
            f"postgresql://user@host/name; got {url.partition(':')[0]}:... ({error})"
        ) from error


def write_settings(folder: Path, settings: SweepSettings) -> None:
    """Writes sweep.json with the passwords of study and overrides masked."""
    values = asdict(settings) | {
        "storage": shown_url(settings.storage),
        "overrides": shown_overrides(settings.overrides),
    }
    write_atomically(folder / SETTINGS_FILE, json.dumps(values, indent=1))


def read_settings(folder: Path) -> SweepSettings:
    """Reads sweep.json.

    Raises:
        FileNotFoundError: the folder contains no sweep.
        ValueError: the file is damaged.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"--resume: expected a sweep's folder with {SETTINGS_FILE}, got {folder}; omit "
            "--resume to start a sweep, or set --sweeps and --name"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        lists = {key: tuple(values[key]) for key in ("overrides", "seeds")}
        return SweepSettings(**{**values, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged ({error}); remove the folder to start over") from error
