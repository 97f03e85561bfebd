"""A table's cells: one validated run for each row and seed, in the run's ordinary folder.

A cell's folder is that of the same run begun by hand, and its name holds the hash of every setting
that may change the result. So a repeated table finds its finished cells, two tables share the runs
that they have in common, and a changed setting never finds a stale one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.ablation.table_file import TableConfig, nearest
from runner.config.run_config import ConfigError, RunConfig, in_hash, load_config
from runner.experiment import read_benchmark
from runner.results.finished_runs import FinishedRun, read_finished
from runner.results.run_folder import RunStorage
from tasks.protocol.lock_differences import lock_differences

Key = tuple[str, int]
"""Row and seed."""

_OURS = {
    "seed": "--seeds says which seeds are run",
    "run": "cells have the names of ordinary runs",
    "preset": "rows say which preset they begin with",
    "learner.name": "rows say which learner they run",
    "cluster.num_workers": "a cell is one process; --jobs says how many run side by side",
}


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    row: str
    seed: int
    config: RunConfig

    @property
    def key(self) -> Key:
        """Row and seed."""
        return self.row, self.seed

    @property
    def storage(self) -> RunStorage:
        """The run's folder."""
        return RunStorage.of(self.config)

    @property
    def has_begun(self) -> bool:
        """Whether an earlier start left something to go on from."""
        return self.storage.config_file.is_file()


def plan_cells(
    table: TableConfig, seeds: Sequence[int], overrides: Sequence[str] = (), *, real: bool = False
) -> list[Cell]:
    """Every row with every seed: all rows of the first seed, then of the next.

    In this order a table that is stopped early still holds seeds that can be compared in pairs.

    Args:
        table: its rows.
        seeds: different from one another.
        overrides: `key=value` for all rows, applied after what the rows set.
        real: begin with the rows' real presets.

    Raises:
        ConfigError: a row, an override or a seed is wrong, or two rows are the same run.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds: expected different numbers from 0 on, got {list(seeds)}")
    _check_overrides(table, overrides)
    configs = {row: _config(table, row, overrides, real=real) for row in table.rows}
    cells = [
        Cell(row, seed, config.model_copy(update={"seed": seed}))
        for seed in seeds
        for row, config in configs.items()
    ]
    owners: dict[str, str] = {}
    for cell in cells:
        other = owners.setdefault(cell.config.run_name, cell.row)
        if other != cell.row:
            raise ConfigError(
                f"rows {other} and {cell.row} are the same run ({cell.config.run_name}); an "
                "override or the table itself sets both to the same values"
            )
    return cells


def check_rows(table: TableConfig, rows: Sequence[str]) -> None:
    """Refuses names that are no rows of the table.

    Raises:
        ConfigError: one is not.
    """
    for row in rows:
        if row not in table.rows:
            raise ConfigError(
                f"--rows: expected some of {', '.join(table.rows)}; got {row!r}"
                + nearest(row, list(table.rows))
            )


def read_cells(cells: Sequence[Cell]) -> dict[Key, FinishedRun]:
    """The finished ones among the cells.

    Raises:
        ValueError, FileNotFoundError: a finished cell cannot be read, or holds another run.
    """
    found: dict[Key, FinishedRun] = {}
    for cell in cells:
        storage = cell.storage
        if not storage.results_file.is_file():
            continue
        run = read_finished(str(storage.folder))
        if run.config.hash != cell.config.hash:
            raise ValueError(
                f"{storage.folder} holds a run of another configuration; remove it, or set another "
                "storage.root"
            )
        found[cell.key] = run
    return found


def check_data(cells: Sequence[Cell], finished: Mapping[Key, FinishedRun]) -> None:
    """Reads the data of every row that has something to run, so that nothing fails late.

    Args:
        cells: what is to be run.
        finished: the table's finished cells.

    Raises:
        ValueError: data are missing or cannot be learned, or finished cells of a row were tested
            on other data than there are now.
    """
    for row, cell in {cell.row: cell for cell in reversed(cells)}.items():
        try:
            lock = read_benchmark(cell.config).lock
        except (ValueError, OSError) as error:
            raise ValueError(f"row {row}: {error}") from error
        plain = json.loads(json.dumps(lock))
        for (other, seed), run in finished.items():
            if other == row and (
                how := lock_differences({"the finished run": run.lock, "the data now": plain})
            ):
                raise ValueError(
                    f"row {row}: seed {seed} is finished under another protocol lock "
                    f"({how[0].sentence}); restore the data, or remove {run.folder}"
                )


def table_folder(name: str, cells: Sequence[Cell], overrides: Sequence[str], real: bool) -> Path:
    """Where a table is written: `ablations/<name>/` below storage.root.

    With overrides that change results, or with --real, a hash of all rows' settings follows the
    name, so that one variant of a table does not overwrite another.
    """
    folder = cells[0].storage.folder.parent / "ablations"
    if not real and not any(in_hash(override.partition("=")[0]) for override in overrides):
        return folder / name
    hashes = {cell.row: cell.config.model_copy(update={"seed": 0}).hash for cell in cells}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return folder / f"{name}-{digest[:8]}"


def _config(table: TableConfig, row: str, overrides: Sequence[str], *, real: bool) -> RunConfig:
    values = table.settings_of(row, real=real)
    own = [f"{key}={_as_yaml(value)}" for key, value in values.items()]
    try:
        preset = table.preset_of(row, real=real)
        config = load_config(preset, [*own, *overrides, "cluster.num_workers=0"])
    except ConfigError as error:
        raise ConfigError(f"row {row}: {error}") from error
    if table.checkpoint == "validation" and not config.evaluation.every_epochs:
        raise ConfigError(
            f"row {row}: this table's scores are of the epoch that validation people choose "
            "(checkpoint: validation), and evaluation.every_epochs=0 chooses none; set it to 1 or "
            "more"
        )
    return config


def _as_yaml(value: Any) -> str:
    # JSON is YAML on one line, strings that look like numbers included.
    return json.dumps(value)


def _check_overrides(table: TableConfig, overrides: Sequence[str]) -> None:
    """An override of what a row sets would make its label untrue."""
    for override in overrides:
        key = override.partition("=")[0]
        for ours, instead in _OURS.items():
            if _is_below(key, ours):
                raise ConfigError(f"{override}: cannot be set for a table; {instead}")
        for name, row in table.rows.items():
            for own in {**row.set, **row.real_set}:
                if _is_below(key, own) or _is_below(own, key):
                    raise ConfigError(
                        f"{override}: row {name} sets {own}, which is what this table compares; "
                        "copy the table's file to change it"
                    )


def _is_below(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")
