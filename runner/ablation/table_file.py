"""What a table is: a YAML file of named rows over configuration paths, and how it is read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from runner.config.run_config import PRESETS, ConfigError, in_hash
from runner.training.model_selection import Which
from tasks.schema import FrozenConfig

TABLES = PRESETS / "ablations"

RowName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Score = Literal[
    "seen_mAP", "seen_R1", "seen_R5", "seen_R10", "seen_mINP", "unseen_mAP", "unseen_R1"
]
Scores = dict[Score, Annotated[float, Field(ge=0, le=100)]]
"""Percent, as printed."""


class PublishedConfig(FrozenConfig):
    """What one source prints of rows of this table."""

    source: str = Field(min_length=1, description="where the numbers come from, in words")
    remark: str = Field(default="", description="what to know before comparing, in words")
    rows: dict[RowName, Scores] = Field(description="percent by row of this table")


class RowConfig(FrozenConfig):
    """One row: a preset and what is set in it."""

    label: str = Field(default="", description="as it is shown; default: the row's name")
    preset: str | None = Field(default=None, description="instead of the table's preset")
    real_preset: str | None = Field(default=None, description="instead of the table's real_preset")
    set: dict[str, Any] = Field(
        default_factory=dict, description="values by dotted configuration path"
    )
    real_set: dict[str, Any] = Field(
        default_factory=dict, description="the same with --real, over those of `set`"
    )
    reference: str | None = Field(
        default=None, description="row it is compared with; default: the table's reference"
    )
    published_method: str | None = Field(
        default=None,
        description="method of runner/results/published.yaml, shown where the benchmark is its own",
    )


class TableConfig(FrozenConfig):
    """A table of runs."""

    title: str = Field(min_length=1, description="headline")
    description: str = Field(min_length=1, description="what is varied, and what is held")
    preset: str | None = Field(default=None, description="preset of rows that name none")
    real_preset: str | None = Field(default=None, description="the same with --real")
    set: dict[str, Any] = Field(
        default_factory=dict, description="values of every row, below those of its own"
    )
    checkpoint: Which = Field(
        default="last",
        description="whose scores are shown: the network as runs end, or after the epoch that "
        "validation people chose, for which every row needs evaluation.every_epochs",
    )
    measures: Literal["fusion"] | None = Field(
        default=None,
        description="fusion: the table also says what it costs each row, of learner bdam, to embed "
        "a gallery image with its description",
    )
    rows: dict[RowName, RowConfig] = Field(min_length=1, description="in the order shown")
    reference: str = Field(description="row that the others are compared with, seed by seed")
    published: PublishedConfig | None = Field(default=None, description="numbers of the literature")
    minutes_per_run: float | None = Field(
        default=None,
        gt=0,
        description="of one run of `preset` on one core; only for the time said before the start",
    )

    @model_validator(mode="after")
    def _rows_exist(self) -> TableConfig:
        named = {"reference": self.reference}
        named |= {f"rows.{name}.reference": row.reference for name, row in self._referring()}
        named |= {f"published.rows.{name}": name for name in self._published_rows()}
        for place, name in named.items():
            if name not in self.rows:
                raise ValueError(
                    f"{place}: there is no row {name!r}" + nearest(str(name), list(self.rows))
                )
        return self

    @model_validator(mode="after")
    def _settings_make_results(self) -> TableConfig:
        settings = {"set": self.set}
        for name, row in self.rows.items():
            if row.preset is None and self.preset is None:
                raise ValueError(f"rows.{name}.preset: expected a preset here or for the table")
            settings |= {f"rows.{name}.set": row.set, f"rows.{name}.real_set": row.real_set}
        for place, values in settings.items():
            for key in values:
                if key == "seed" or not in_hash(key):
                    raise ValueError(
                        f"{place}.{key}: a row sets what changes its result; seeds, "
                        "places and workers are given on the command line"
                    )
        return self

    def settings_of(self, row: str, *, real: bool) -> dict[str, Any]:
        """What a row sets in its preset: the table's values, then its own."""
        chosen = self.rows[row]
        return {**self.set, **chosen.set, **(chosen.real_set if real else {})}

    def reference_of(self, row: str) -> str | None:
        """The row that a row is compared with; None for one that is compared with none."""
        reference = self.rows[row].reference or self.reference
        return None if reference == row else reference

    def preset_of(self, row: str, *, real: bool) -> str:
        """The preset a row begins with.

        Raises:
            ConfigError: --real, and neither the row nor the table has a real preset.
        """
        chosen = self.rows[row]
        if not real:
            preset = chosen.preset or self.preset
        elif chosen.real_preset:
            preset = chosen.real_preset
        else:
            # A row with a preset of its own must not silently fall back to another method's.
            preset = None if chosen.preset else self.real_preset
        if preset is None:
            raise ConfigError(
                f"--real: row {row} has no real_preset; leave --real out, or choose another table"
            )
        return preset

    def _referring(self) -> list[tuple[str, RowConfig]]:
        return [(name, row) for name, row in self.rows.items() if row.reference is not None]

    def _published_rows(self) -> Sequence[str]:
        return list(self.published.rows) if self.published else []


def table_names() -> list[str]:
    """The tables that ship with the project."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def load_table(table: str) -> tuple[str, TableConfig]:
    """The name and the content of a table, given its name or a YAML file.

    Raises:
        ConfigError: there is none, or a key or value of it is wrong; says which, and the nearest
            right one.
    """
    path = TABLES / f"{table}.yaml"
    if not path.is_file():
        path = Path(table)
    if not path.is_file():
        raise ConfigError(
            f"expected a table: a YAML file or one of {', '.join(table_names())}; got {table!r}"
            + nearest(table, table_names())
        )
    try:
        # OmegaConf refuses a key that is there twice; YAML alone would drop the first row.
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML; {error}") from error
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path}: expected a mapping with title, rows and so on")
    try:
        return path.stem, TableConfig.model_validate(loaded)
    except ValidationError as error:
        problems = "\n".join(f"{path.name}: {_problem(item)}" for item in error.errors())
        raise ConfigError(problems) from error


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?`, or nothing where nothing is near."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _problem(item: ErrorDetails) -> str:
    path = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        fields = list(_section(item["loc"]).model_fields)
        return f"{path}: unknown key{nearest(str(item['loc'][-1]), fields)}"
    if item["type"] == "missing":
        return f"{path}: expected a value, none came"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return f"{path}: {item['msg']} (got {item['input']!r})"


def _section(location: Sequence[int | str]) -> type[BaseModel]:
    """The part of a table that holds the field at this place."""
    if len(location) == 1:
        return TableConfig
    return RowConfig if location[0] == "rows" else PublishedConfig
