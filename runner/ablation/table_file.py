"""Definition of an ablation table: a YAML file of named rows over configuration paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from runner.config.hashed_fields import in_hash
from runner.config.run_config import PRESETS, ConfigError
from runner.training.model_selection import Which
from tasks.schema import FrozenConfig
from tasks.suggestion import suggestion

TABLES = PRESETS / "ablations"

RowName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Score = Literal[
    "seen_mAP", "seen_R1", "seen_R5", "seen_R10", "seen_mINP", "unseen_mAP", "unseen_R1"
]
Scores = dict[Score, Annotated[float, Field(ge=0, le=100)]]
"""Published scores in percent."""


class PublishedConfig(FrozenConfig):
    """Published results of one source for rows of this table."""

    source: str = Field(min_length=1, description="source of the numbers")
    remark: str = Field(default="", description="caveat for the comparison")
    rows: dict[RowName, Scores] = Field(description="scores in percent by row of this table")


class RowConfig(FrozenConfig):
    """Row of a table: a preset and settings."""

    label: str = Field(default="", description="text shown for the row; default: the row's name")
    preset: str | None = Field(default=None, description="preset; default: the table's preset")
    real_preset: str | None = Field(
        default=None, description="preset with --real; default: the table's"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings by dotted configuration path"
    )
    real_set: dict[str, Any] = Field(
        default_factory=dict, description="additional settings with --real; override `set`"
    )
    reference: str | None = Field(
        default=None, description="row that it is compared with; default: the table's"
    )
    published_method: str | None = Field(
        default=None,
        description="method in runner/results/published.yaml, shown for the same benchmark",
    )


class TableConfig(FrozenConfig):
    """Ablation table."""

    title: str = Field(min_length=1, description="title of the table")
    description: str = Field(
        min_length=1, description="what varies between rows, and what is fixed"
    )
    preset: str | None = Field(default=None, description="preset of rows without one")
    real_preset: str | None = Field(default=None, description="preset with --real")
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings of all rows; settings of a row override them"
    )
    checkpoint: Which = Field(
        default="last",
        description="checkpoint whose scores are shown: last, or validation for the epoch selected "
        "on validation identities, which needs evaluation.every_epochs in every row",
    )
    measures: Literal["fusion"] | None = Field(
        default=None,
        description="fusion: also measure the cost of embedding a gallery image with its "
        "description; for rows of learner bdam",
    )
    rows: dict[RowName, RowConfig] = Field(min_length=1, description="rows in the order shown")
    reference: str = Field(description="row that the others are compared with, seed by seed")
    published: PublishedConfig | None = Field(default=None, description="published results")
    minutes_per_run: float | None = Field(
        default=None,
        gt=0,
        description="minutes of one run of `preset` on one core, for the first time estimate",
    )

    @model_validator(mode="after")
    def _rows_exist(self) -> TableConfig:
        named = {"reference": self.reference}
        named |= {f"rows.{name}.reference": row.reference for name, row in self._referring()}
        named |= {f"published.rows.{name}": name for name in self._published_rows()}
        for place, name in named.items():
            if name not in self.rows:
                raise ValueError(
                    f"{place}: expected a row of this table, got {name!r}"
                    + suggestion(str(name), list(self.rows), 0.5)
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
                        f"{place}.{key}: expected a setting that changes results; set seeds, "
                        "folders and workers on the command line"
                    )
        return self

    def settings_of(self, row: str, *, real: bool) -> dict[str, Any]:
        """Settings of a row: those of the table, overridden by those of the row."""
        config = self.rows[row]
        return {**self.set, **config.set, **(config.real_set if real else {})}

    def reference_of(self, row: str) -> str | None:
        """Row that a row is compared with; None for the reference itself."""
        reference = self.rows[row].reference or self.reference
        return None if reference == row else reference

    def preset_of(self, row: str, *, real: bool) -> str:
        """Preset of a row.

        Raises:
            ConfigError: --real is set, and neither the row nor the table has a real preset.
        """
        config = self.rows[row]
        if not real:
            preset = config.preset or self.preset
        elif config.real_preset:
            preset = config.real_preset
        else:
            # A row with its own preset must not silently fall back to that of another method.
            preset = None if config.preset else self.real_preset
        if preset is None:
            raise ConfigError(
                f"--real: row {row} has no real_preset; omit --real, or choose another table"
            )
        return preset

    def _referring(self) -> list[tuple[str, RowConfig]]:
        return [(name, row) for name, row in self.rows.items() if row.reference is not None]

    def _published_rows(self) -> Sequence[str]:
        return list(self.published.rows) if self.published else []


def table_names() -> list[str]:
    """Names of the tables in runner/presets/ablations/."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def load_table(table: str) -> tuple[str, TableConfig]:
    """Reads a table.

    Args:
        table: name in runner/presets/ablations/, or path of a YAML file.

    Returns:
        Name and definition.

    Raises:
        ConfigError: the file does not exist, or a key or value is invalid; the message suggests
            the most similar valid key.
    """
    path = TABLES / f"{table}.yaml"
    if not path.is_file():
        path = Path(table)
    if not path.is_file():
        raise ConfigError(
            f"expected a table: a YAML file or one of {', '.join(table_names())}; got {table!r}"
            + suggestion(table, table_names(), 0.5)
        )
    try:
        # OmegaConf rejects duplicate keys; PyYAML would drop the first row.
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML; {error}") from error
    if not isinstance(loaded, Mapping):
        raise ConfigError(
            f"{path}: expected a mapping with title, rows, ..., got {type(loaded).__name__}"
        )
    try:
        return path.stem, TableConfig.model_validate(loaded)
    except ValidationError as error:
        problems = "\n".join(f"{path.name}: {_problem(item)}" for item in error.errors())
        raise ConfigError(problems) from error


def _problem(item: ErrorDetails) -> str:
    path = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        fields = list(_section(item["loc"]).model_fields)
        return f"{path}: unknown key{suggestion(str(item['loc'][-1]), fields, 0.5)}"
    if item["type"] == "missing":
        return f"{path}: expected a value, got none"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return f"{path}: {item['msg']} (got {item['input']!r})"


def _section(location: Sequence[int | str]) -> type[BaseModel]:
    """Model of the section that contains the field at this location."""
    if len(location) == 1:
        return TableConfig
    return RowConfig if location[0] == "rows" else PublishedConfig
