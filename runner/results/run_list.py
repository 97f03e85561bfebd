"""Summary of every run in a folder of runs, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from runner.config.json_files import DamagedFileError
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.results.format import MISSING, format_score
from runner.results.run_folder import RunStorage
from runner.results.run_lookup import last_activity_s, last_event, run_folders
from runner.results.setting_differences import changed_settings, plain, preset_of

Status = Literal["finished", "running", "stopped", "failed", "killed", "damaged"]
"""`stopped`: by Ctrl-C or SIGTERM. `killed`: ended without a message."""

_UNITS = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (60, 60, "min"))
_LEFT = ("run", "status", "learner", "benchmark")
_RIGHT = ("seed", "seen", "unseen", "age")


@dataclass(frozen=True)
class RunEntry:
    """One run of a list.

    Attributes:
        folder: run folder.
        status: how far the run is.
        time_s: Unix time of its last event.
        config: its configuration; None if this version cannot read it.
        summary: averages at the end of training, in percent; empty before.
        changed: settings that differ from the preset; None if the preset is not available.
        problem: what is damaged, or "".
    """

    folder: Path
    status: Status
    time_s: float
    config: RunConfig | None = None
    summary: Mapping[str, float | None] | None = None
    changed: Mapping[str, Any] | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        config, summary = self.config, self.summary or {}
        keys = ("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1", "forgetting_mAP")
        return {
            "name": self.folder.name,
            "folder": str(self.folder),
            "status": self.status,
            "learner": config and config.learner.name,
            "benchmark": config and config.benchmark.name,
            "preset": config and config.preset,
            "seed": config and config.seed,
            **{key: summary.get(key) for key in keys},
            "changed_settings": self.changed,
            "last_activity": self.time_s,
            "problem": self.problem,
        }


def list_runs(folder: Path, beginning: str = "") -> list[RunEntry]:
    """Reads all runs in a folder whose names have this beginning, the newest first."""
    presets: dict[str, RunConfig | None] = {}
    runs = [each for each in run_folders(folder) if each.name.startswith(beginning)]
    entries = [_read(each, presets) for each in runs]
    return sorted(entries, key=lambda entry: entry.time_s, reverse=True)


def show_list(console: Console, entries: list[RunEntry], now_s: float) -> None:
    """Prints a line for each run with the mAP averages; changed settings follow below.

    Args:
        console: output console.
        entries: runs to show.
        now_s: Unix time from which ages are counted.
    """
    rows = [(*_LEFT, *_RIGHT), *(_cells(each, now_s) for each in entries)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= console.width else " "
    for index, row in enumerate(rows):
        cells = zip(row, widths, strict=True)
        padded = [
            cell.ljust(width) if column < len(_LEFT) else cell.rjust(width)
            for column, (cell, width) in enumerate(cells)
        ]
        # A folded name cannot be copied, so long lines are left to the terminal.
        console.print(Text(gap.join(padded), style="" if index else "dim"), soft_wrap=True)
    if entries:
        console.print(Text("seen, unseen: mean mAP (%) after the last domain", style="dim"))
    changed: dict[str, list[str]] = {}
    for each in entries:
        if text := each.problem or _changes(each):
            changed.setdefault(text, []).append(each.folder.name)
    for text, names in changed.items():
        console.print()
        console.print(Text("\n".join(names)), soft_wrap=True)
        console.print(Text(f"  {text}", style="dim"), soft_wrap=True)


def format_age(seconds: float) -> str:
    """Age in its largest suitable unit, such as `3 h`."""
    for smallest, unit, name in _UNITS:
        if seconds >= smallest:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _cells(entry: RunEntry, now_s: float) -> tuple[str, ...]:
    config, summary = entry.config, entry.summary or {}
    known = config and (config.learner.name, config.benchmark.name, str(config.seed))
    learner, benchmark, seed = known or (MISSING,) * 3
    scores = (format_score(summary.get(key)) for key in ("seen_mAP", "unseen_mAP"))
    age = format_age(now_s - entry.time_s)
    return (entry.folder.name, entry.status, learner, benchmark, seed, *scores, age)


def _changes(entry: RunEntry) -> str:
    if entry.config is not None and entry.changed is None:
        return f"preset {entry.config.preset} is not available: changed settings unknown"
    return " ".join(f"{key}={plain(value)}" for key, value in (entry.changed or {}).items())


def _read(folder: Path, presets: dict[str, RunConfig | None]) -> RunEntry:
    time_s, storage = last_activity_s(folder), RunStorage(folder)
    try:
        config = load_config(str(storage.config_file))
        results = storage.results()
    except (ConfigError, DamagedFileError) as error:
        return RunEntry(folder, "damaged", time_s, problem=str(error).splitlines()[0])
    summary = (results or {}).get("summary")
    status = "finished" if results is not None else _status(storage)
    if config.preset not in presets:
        presets[config.preset] = preset_of(config)
    preset = presets[config.preset]
    changed = None if preset is None else changed_settings(config, preset)
    return RunEntry(folder, status, time_s, config, summary, changed)


def _status(storage: RunStorage) -> Status:
    if storage.is_in_use:
        return "running"
    kind = (last_event(storage.folder) or {}).get("event")
    return kind if kind in ("failed", "stopped") else "killed"
