"""Folder of a run: its files, its lock, and whether the run is finished."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from runner.config.run_config import (
    ConfigError,
    RunConfig,
    base_folder,
    flatten,
    in_hash,
    load_config,
    to_yaml,
)
from tasks.protocol.lock_differences import lock_differences


class RunStorage:
    """Files of one run under `storage.root`; docs/storage.md describes their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.lock_file = folder / "protocol.lock.json"
        self.events_file = folder / "events.jsonl"
        self.unreadable_file = folder / "quarantine.jsonl"
        self.results_file = folder / "results.json"
        self.attempt_file = folder / "attempt.json"
        self.checkpoints = folder / "checkpoints"
        self._owner: IO[str] | None = None

    @staticmethod
    def of(config: RunConfig) -> RunStorage:
        """Storage of the run with this configuration; it need not exist yet."""
        root = base_folder() / Path(config.storage.root).expanduser()
        return RunStorage(root / config.run_name)

    def open(self, config: RunConfig, *, fresh: bool) -> int:
        """Locks the folder for this process and returns the number of this start, from 1.

        Args:
            config: configuration of the run.
            fresh: delete the files of earlier starts. The start number still increases, so that a
                worker left over from an earlier start is not mistaken for one of this start.

        Raises:
            PermissionError: the folder is not writable.
            RuntimeError: another process is running the same run.
            ValueError: the folder holds a run with another configuration.
        """
        self._lock()
        try:
            if fresh:
                self._empty()
            self._check_same(config)
            write_atomically(self.config_file, to_yaml(config))
            attempt = self._attempt() + 1
            write_atomically(self.attempt_file, json.dumps({"attempt": attempt}))
            self.unreadable_file.touch()
        except BaseException:
            self.close()
            raise
        return attempt

    def close(self) -> None:
        """Releases the lock of the folder."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def results(self) -> dict[str, Any] | None:
        """Content of results.json, or None if the run is not finished."""
        return json.loads(self.results_file.read_text()) if self.results_file.exists() else None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json atomically."""
        write_atomically(self.results_file, json.dumps(results, indent=1))

    def write_lock(self, lock: Mapping[str, Any]) -> None:
        """Writes protocol.lock.json.

        Raises:
            ValueError: the run started under another protocol, so the data have changed.
        """
        if self.lock_file.exists() and (differences := self._differences(lock)):
            raise ValueError(
                f"the data no longer match {self.lock_file}, under which this run started "
                f"({differences}); restore the data, or start over with --fresh"
            )
        write_atomically(self.lock_file, json.dumps(lock, indent=1, sort_keys=True))

    def _differences(self, lock: Mapping[str, Any]) -> str:
        """First differences from the existing lock as text; "" if there are none."""
        try:
            existing = json.loads(self.lock_file.read_text())
        except ValueError:
            existing = None
        if not isinstance(existing, dict):
            return "it is damaged"
        differences = lock_differences({"the lock": existing, "the data now": lock})
        sentences = [each.sentence for each in differences[:3]]
        if len(differences) > 3:
            sentences.append(f"and {len(differences) - 3} more")
        return "; ".join(sentences)

    def _lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = (self.folder / ".owner").open("a")
        except OSError as error:
            raise PermissionError(
                f"storage.root: cannot write to {self.folder} ({error.strerror}); "
                "set storage.root to a writable folder"
            ) from error
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise RuntimeError(
                f"{self.folder} is being written by another process; "
                "wait for it, stop it, or choose another run.name"
            ) from error

    def _attempt(self) -> int:
        if not self.attempt_file.exists():
            return 0
        return json.loads(self.attempt_file.read_text())["attempt"]

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.name in (".owner", self.attempt_file.name):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_same(self, config: RunConfig) -> None:
        if not self.config_file.exists():
            return
        try:
            before = load_config(str(self.config_file))
        except ConfigError as error:
            raise ValueError(
                f"{self.folder} holds a run that this version cannot read ({error}); "
                "choose another run.name, or start over with --fresh"
            ) from error
        if before.hash == config.hash:
            return
        old, new = flatten(before), flatten(config)
        differing = [
            f"{key}: {old.get(key)!r} there, {new.get(key)!r} here"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and in_hash(key)
        ]
        raise ValueError(
            f"{self.folder} holds a run of another configuration ({'; '.join(differing[:5])}); "
            "choose another run.name, or start over with --fresh"
        )


def find_run(run: str, storage_root: str = "runs") -> Path:
    """Finds the folder of a run, given the folder or the run's name under `storage_root`.

    Raises:
        FileNotFoundError: there is no such run.
    """
    folder = Path(run)
    if not folder.is_dir():
        folder = base_folder() / Path(storage_root).expanduser() / run
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"expected a run's folder or its name in the folder of runs, found no run at {folder}"
            f"{_runs_in(folder.parent)}; give the folder of the run, or set --runs"
        )
    return folder


def _runs_in(folder: Path) -> str:
    """Names of some runs in a folder, for an error message."""
    names = sorted(file.parent.name for file in folder.glob("*/config.yaml"))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; {folder} holds {', '.join(names[:3])}{more}" if names else ""


def write_atomically(path: Path, text: str) -> None:
    """Writes a temporary file and renames it, so that readers see the old or the new text."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def git_revision() -> str | None:
    """Commit of the running code, with "+" if the tree has changes; None outside git."""
    root = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if dirty else "")
