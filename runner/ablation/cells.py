"""Cells of an ablation table: one validated run for each row and seed.

A cell uses the same folder as the run started by hand; its name contains the hash of all settings
that may change the result. A repeated table therefore finds its finished cells, tables share common
runs, and changed settings never match an outdated run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.ablation.table_file import TableConfig
from runner.config.hashed_fields import in_hash
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.experiment import read_benchmark, resolve_folders
from runner.results.finished_runs import FinishedRun, read_finished
from runner.results.run_folder import RunStorage
from tasks.benchmarks import missing_styled_texts
from tasks.protocol.lock_differences import lock_differences
from tasks.schema import Benchmark
from tasks.suggestion import suggestion

Key = tuple[str, int]
"""Row and seed."""

_RESERVED = {
    "seed": "set --seeds",
    "run": "cells have the default names of runs",
    "preset": "the preset is set by the rows",
    "learner.name": "the learner is set by the rows",
    "cluster.num_workers": "a cell is one process; set --jobs for the number of concurrent cells",
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
        """Folder of the run."""
        return RunStorage.of(self.config)

    @property
    def is_started(self) -> bool:
        """Whether the run was started before and can be resumed."""
        return self.storage.config_file.is_file()


def plan_cells(
    table: TableConfig, seeds: Sequence[int], overrides: Sequence[str] = (), *, real: bool = False
) -> list[Cell]:
    """Creates a cell for every row and seed: all rows of the first seed, then of the next.

    In this order, a table that is stopped early has complete seeds for paired comparisons.

    Args:
        table: definition of the table.
        seeds: distinct seeds.
        overrides: `key=value` overrides of all rows, applied after the settings of the rows.
        real: use the rows' presets for real data.

    Raises:
        ConfigError: a row, an override or a seed is invalid, or two rows are the same run.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds: expected different numbers >= 0, got {list(seeds)}")
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
                f"rows {other} and {cell.row} are the same run ({cell.config.run_name}); give "
                "them different settings, or remove the override that makes them equal"
            )
    return cells


def check_rows(table: TableConfig, rows: Sequence[str]) -> None:
    """Checks that names are rows of the table.

    Raises:
        ConfigError: a name is unknown.
    """
    for row in rows:
        if row not in table.rows:
            raise ConfigError(
                f"--rows: expected some of {', '.join(table.rows)}; got {row!r}"
                + suggestion(row, list(table.rows), 0.5)
            )


def read_cells(cells: Sequence[Cell]) -> dict[Key, FinishedRun]:
    """Reads the finished cells.

    Raises:
        ValueError, FileNotFoundError: a finished cell is unreadable, or has another configuration.
    """
    finished: dict[Key, FinishedRun] = {}
    for cell in cells:
        storage = cell.storage
        if not storage.results_file.is_file():
            continue
        run = read_finished(str(storage.folder))
        if run.config.hash != cell.config.hash:
            raise ValueError(
                f"{storage.folder}: expected the configuration of row {cell.row}, got another one; "
                "remove the folder, or set another storage.root"
            )
        finished[cell.key] = run
    return finished


def missing_texts(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Finds the files of styled texts that rows need and that have not been written.

    Rows whose data sets cannot be found are left to `check_data`.

    Returns:
        Rows by the command that writes a file they need.
    """
    rows: dict[str, list[str]] = {}
    for row, cell in {cell.row: cell for cell in cells}.items():
        with suppress(ValueError, OSError):
            for command in missing_styled_texts(resolve_folders(cell.config.benchmark)).values():
                rows.setdefault(command, []).append(row)
    return rows


def missing_texts_message(missing: Mapping[str, Sequence[str]], wanted: Collection[str]) -> str:
    """Message with the commands to run before the rows, and the rows that need none.

    Args:
        missing: result of `missing_texts`.
        wanted: names of all rows to run.
    """
    lines = ["These rows need texts that have not been written; run first:"]
    lines += [f"  {', '.join(rows)}:  {command}" for command, rows in missing.items()]
    waiting = {row for rows in missing.values() for row in rows}
    if ready := [row for row in wanted if row not in waiting]:
        lines.append(f"The texts of the other rows exist: --rows {' '.join(ready)}")
    return "\n".join(lines)


def check_data(cells: Sequence[Cell], finished: Mapping[Key, FinishedRun]) -> list[Benchmark]:
    """Reads the data of all rows before the first run starts, to fail early.

    Args:
        cells: cells to run.
        finished: finished cells of the table.

    Returns:
        The different benchmarks of the rows whose images have the size of those of the first row.

    Raises:
        ValueError: texts of `benchmark.style` have not been written, data are missing or invalid,
            or finished cells of a row were tested on other data.
    """
    if missing := missing_texts(cells):
        raise ValueError(missing_texts_message(missing, dict.fromkeys(cell.row for cell in cells)))
    benchmarks = dict[str, Benchmark]()
    rows = {cell.row: cell for cell in reversed(cells)}
    for row, cell in rows.items():
        try:
            benchmark = read_benchmark(cell.config)
        except (ValueError, OSError) as error:
            raise ValueError(f"row {row}: {error}") from error
        if _image_size(cell) == _image_size(cells[0]):
            benchmarks.setdefault(cell.config.benchmark.model_dump_json(), benchmark)
        current = json.loads(json.dumps(benchmark.lock))
        for (other, seed), run in finished.items():
            if other == row and (
                differences := lock_differences(
                    {"the finished run": run.lock, "the current data": current}
                )
            ):
                raise ValueError(
                    f"row {row}: seed {seed} is finished under another protocol lock "
                    f"({differences[0].sentence}); restore the data, or remove {run.folder}"
                )
    return list(benchmarks.values())


def table_folder(name: str, cells: Sequence[Cell], overrides: Sequence[str], real: bool) -> Path:
    """Output folder of a table: `ablations/<name>/` in storage.root.

    With overrides that change results, or with --real, a hash of all rows' settings is appended to
    the name, so that variants of a table do not overwrite one another.
    """
    folder = cells[0].storage.folder.parent / "ablations"
    if not real and not any(in_hash(override.partition("=")[0]) for override in overrides):
        return folder / name
    hashes = {cell.row: cell.config.model_copy(update={"seed": 0}).hash for cell in cells}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return folder / f"{name}-{digest[:8]}"


def _image_size(cell: Cell) -> tuple[int, int]:
    backbone = cell.config.backbone
    return backbone.image_height, backbone.image_width


def _config(table: TableConfig, row: str, overrides: Sequence[str], *, real: bool) -> RunConfig:
    values = table.settings_of(row, real=real)
    row_overrides = [f"{key}={_as_yaml(value)}" for key, value in values.items()]
    try:
        preset = table.preset_of(row, real=real)
        config = load_config(preset, [*row_overrides, *overrides, "cluster.num_workers=0"])
    except ConfigError as error:
        raise ConfigError(f"row {row}: {error}") from error
    if table.checkpoint == "validation" and not config.evaluation.every_epochs:
        raise ConfigError(
            f"row {row}: evaluation.every_epochs: expected at least 1 for a table with "
            "checkpoint: validation, got 0"
        )
    return config


def _as_yaml(value: Any) -> str:
    # JSON is valid YAML on one line, and quotes strings that look like numbers.
    return json.dumps(value)


def _check_overrides(table: TableConfig, overrides: Sequence[str]) -> None:
    """Rejects overrides of settings that rows set, because they would contradict the labels."""
    for override in overrides:
        key = override.partition("=")[0]
        for reserved, remedy in _RESERVED.items():
            if _is_below(key, reserved):
                raise ConfigError(f"{override}: cannot be set for a table; {remedy}")
        for name, row in table.rows.items():
            for compared in {**row.set, **row.real_set}:
                if _is_below(key, compared) or _is_below(compared, key):
                    raise ConfigError(
                        f"{override}: row {name} sets {compared}, which the table compares; "
                        "copy the table's file to change it"
                    )


def _is_below(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")
