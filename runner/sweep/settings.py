"""What one sweep was asked to do; kept in its folder, so that the sweep can go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runner.results.run_folder import write_atomically
from runner.sweep.objectives import Objective, parse_objectives

SETTINGS_FILE = "sweep.json"
SPACE_FILE = "space.yaml"
STUDY_FILE = "study.db"

Sampler = Literal["tpe", "random", "gp", "nsga2"]
Scheduler = Literal["asha", "median", "none"]


@dataclass(frozen=True)
class SweepSettings:
    """A sweep.

    Attributes:
        name: of its folder, its Optuna study and its MLflow parent run.
        preset: every trial begins with it.
        overrides: `key=value` of every trial, below the sampled values.
        num_trials: finished, stopped and failed ones together.
        concurrent: trials side by side.
        sampler: who proposes values.
        scheduler: who stops trials early.
        objective: names separated by commas.
        seeds: of a trial's runs, whose scores are averaged.
        sampler_seed: of the sampler's own draws.
        storage: URL of the Optuna study; None is sqlite in the sweep's folder.
        default_first: whether the first trial has the configuration's own values.
        grace: domains that every trial learns before the scheduler may stop it.
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
        """Parsed."""
        return parse_objectives(self.objective)

    def study_url(self, folder: Path) -> str:
        """Where the study is."""
        return self.storage or f"sqlite:///{folder / STUDY_FILE}"


def shown_url(url: str | None) -> str | None:
    """A study's URL with stars for a password."""
    return url and parse_url(url).render_as_string(hide_password=True)


def parse_url(url: str) -> URL:
    """Of a study's database.

    Raises:
        ValueError: it is no URL, or of no known kind of database.
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
    """sweep.json; a password in the storage's URL is written as stars."""
    values = asdict(settings) | {"storage": shown_url(settings.storage)}
    write_atomically(folder / SETTINGS_FILE, json.dumps(values, indent=1))


def read_settings(folder: Path) -> SweepSettings:
    """What was written.

    Raises:
        FileNotFoundError: the folder holds no sweep.
        ValueError: the file is damaged.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"--resume: expected a sweep's folder with {SETTINGS_FILE}; found none at {folder}. "
            "Leave --resume out to begin one, or say where it is by --sweeps and --name"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        lists = {key: tuple(values[key]) for key in ("overrides", "seeds")}
        return SweepSettings(**{**values, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged ({error}); remove the folder to start over") from error
