"""Finds a run by its folder, its name, the beginning of its name, or `latest`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.config.run_config import base_folder
from tasks.suggestion import suggestion

LATEST = "latest"
"""Name that stands for the run with the newest event."""

MAX_NAMES = 5
_TAIL_BYTES = 64 * 1024


def runs_folder(storage_root: str) -> Path:
    """Absolute path of a folder of runs."""
    return base_folder() / Path(storage_root).expanduser()


def run_folders(folder: Path) -> list[Path]:
    """Folders of all runs in a folder of runs, by name."""
    return sorted(file.parent for file in folder.glob("*/config.yaml"))


def find_run(run: str, storage_root: str = "runs") -> Path:
    """Finds the folder of a run.

    Args:
        run: folder of a run; or, in the folder of runs, the run's name, the beginning of one name,
            or `latest`.
        storage_root: folder of runs.

    Raises:
        FileNotFoundError: there is no such run, or there are several; the message lists candidates.
    """
    parent = runs_folder(storage_root)
    for folder in (Path(run), parent / run):
        if (folder / "config.yaml").is_file():
            return folder
    names = [folder.name for folder in run_folders(parent)]
    if run == LATEST and names:
        return max((parent / name for name in names), key=last_activity_s)
    matches = [name for name in names if run and name.startswith(run)]
    if len(matches) == 1:
        return parent / matches[0]
    if matches:
        raise FileNotFoundError(
            f"expected one run whose name begins with {run!r}, found {len(matches)} in {parent}: "
            f"{_listed(matches)}; give more of the name"
        )
    missing = parent / run
    raise FileNotFoundError(
        f"expected a run's folder, or its name or the beginning of its name in the folder of runs, "
        f"found no run at {missing}{_candidates(run, missing.parent)}; set --runs to search "
        "another folder"
    )


def last_event(folder: Path) -> dict[str, Any] | None:
    """The last whole event of a run's log; None without one."""
    with suppress(OSError), (folder / "events.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    return event
    return None


def last_activity_s(folder: Path) -> float:
    """Unix time of the last event of a run; of its last start if it has no event.

    Unlike the time of a file, it is the same in a copy of the folder.
    """
    with suppress(KeyError, TypeError, ValueError):
        return float((last_event(folder) or {})["time"])
    return (folder / "config.yaml").stat().st_mtime


def _candidates(run: str, folder: Path) -> str:
    names = [each.name for each in run_folders(folder)]
    if not names:
        return "; it holds no runs" if folder.is_dir() else ""
    similar = [name for name in names if run in name]
    if similar:
        return f"; similar names: {_listed(similar)}"
    return f"{suggestion(run, names)}; {folder} holds {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMES} more" if len(listed) > MAX_NAMES else ""
    return f"{', '.join(listed[:MAX_NAMES])}{more}"
