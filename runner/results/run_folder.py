"""Folder of a run: its files, its lock, and whether the run is finished."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from runner.config.hashed_fields import in_hash
from runner.config.json_files import DamagedFileError, read_lines, read_object, write_atomically
from runner.config.run_config import (
    ConfigError,
    RunConfig,
    base_folder,
    flatten,
    load_config,
    to_yaml,
)
from runner.results.data_files import read_data_files, write_data_files
from tasks.protocol.contents import DomainContents, differing_files
from tasks.protocol.lock import has_contents
from tasks.protocol.lock_differences import lock_differences

__all__ = ["RunStorage", "git_revision", "write_atomically"]


RESULTS_REMEDY = "repeat the command that started the run, which makes it again without training"


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
        self.data_files = folder / "data-files.jsonl"
        self.stop_file = folder / ".stop"
        self.checkpoints = folder / "checkpoints"
        self.notes: list[str] = []
        """Repairs of damaged files and other messages about this start, for the event log."""
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

    @property
    def is_in_use(self) -> bool:
        """Whether a process of this machine is writing the run now."""
        try:
            with (self.folder / ".owner").open() as owner:
                fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or a file system without locks
            return False
        return False

    def results(self) -> dict[str, Any] | None:
        """Content of results.json, or None if the run is not finished.

        Raises:
            DamagedFileError: the file is damaged.
        """
        if not self.results_file.exists():
            return None
        return read_object(self.results_file, keys=("scores",), remedy=RESULTS_REMEDY)

    def repaired_results(self) -> dict[str, Any] | None:
        """Like `results`, but None for a damaged file if it can be made again.

        The results are made again from the checkpoint of the finished run, without training.

        Raises:
            DamagedFileError: the file is damaged, and there is no checkpoint.
        """
        try:
            return self.results()
        except DamagedFileError as error:
            if not any(self.checkpoints.glob("position-*")):
                raise DamagedFileError(
                    self.results_file,
                    "there is no checkpoint either",
                    "restore it from a copy, or start over with --fresh",
                ) from error
            self.notes.append(
                f"{self.results_file} is damaged and is made again from the last checkpoint"
            )
            return None

    def lock(self) -> dict[str, Any]:
        """Content of protocol.lock.json.

        Raises:
            DamagedFileError: the file is damaged.
        """
        return read_object(
            self.lock_file,
            remedy="restore it from a copy, or delete it and repeat the command that started the "
            "run, which records the current data",
        )

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json atomically."""
        write_atomically(self.results_file, json.dumps(results, indent=1))

    def write_lock(
        self, lock: Mapping[str, Any], contents: Mapping[str, DomainContents] | None = None
    ) -> None:
        """Writes protocol.lock.json, and data-files.jsonl with the size and hash of every file.

        Args:
            lock: protocol lock of the current data.
            contents: contents of the files by domain; None does not change data-files.jsonl.

        Raises:
            ValueError: the run started under another protocol, so the data have changed.
        """
        if self.lock_file.exists():
            existing = self.lock()
            if differences := _difference_text(existing, lock):
                files = _file_text(read_data_files(self.data_files), contents or {})
                raise ValueError(
                    f"the data no longer match {self.lock_file}, under which this run started "
                    f"({differences}){files}; restore the data, or start over with --fresh"
                )
            if has_contents(lock) and not has_contents(existing):
                self.notes.append(
                    f"{self.lock_file.name} was written by a version that did not record the "
                    "contents of the image files; the current contents are recorded now, and it "
                    "is not known whether they changed since this run started"
                )
        write_atomically(self.lock_file, json.dumps(lock, indent=1, sort_keys=True))
        if contents is not None:
            write_data_files(self.data_files, contents)

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
        try:
            content = read_object(self.attempt_file, keys=("attempt",), remedy="")
            return int(content["attempt"])
        except (DamagedFileError, TypeError, ValueError):
            attempt = self._attempt_of_events()
        self.notes.append(
            f"{self.attempt_file} was damaged; the last start of the event log was {attempt}"
        )
        return attempt

    def _attempt_of_events(self) -> int:
        """Number of the latest start in the event log; 0 if there is none."""
        events, _ = read_lines(
            self.events_file, lambda each: isinstance(each, dict) and each.get("event") == "run"
        )
        return max((int(event.get("attempt") or 0) for event in events), default=0)

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
            if self._repairs_config(config):
                return
            raise ValueError(
                f"{self.folder} holds a run that this version cannot read ({error}); "
                "choose another run.name, or start over with --fresh"
            ) from error
        if before.hash == config.hash or self._repairs_config(config):
            return
        if missing := _missing_sections(self.config_file):
            raise DamagedFileError(
                self.config_file,
                f"it lacks {', '.join(missing)}, so it was truncated",
                "restore it from a copy, or start over with --fresh",
            )
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

    def _repairs_config(self, config: RunConfig) -> bool:
        """Whether config.yaml is truncated and the checkpoints are of this configuration.

        In that case config.yaml can be written again.
        """
        if not _missing_sections(self.config_file):
            return False
        hashes: set[object] = set()
        for file in self.checkpoints.glob("position-*/state.json"):
            with contextlib.suppress(OSError, DamagedFileError):
                hashes.add(read_object(file, remedy="").get("config_hash"))
        if hashes != {config.hash}:
            return False
        self.notes.append(f"{self.config_file} was truncated and has been written again")
        return True


def _missing_sections(file: Path) -> list[str]:
    """Top-level keys that a complete configuration file has and this one has not."""
    try:
        values = yaml.safe_load(file.read_text(errors="replace"))
    except yaml.YAMLError:
        values = None
    present = values.keys() if isinstance(values, dict) else ()
    return [name for name in RunConfig.model_fields if name not in present]


def _difference_text(existing: Mapping[str, Any], lock: Mapping[str, Any]) -> str:
    """First differences between two locks as text; "" if there are none."""
    differences = lock_differences({"the lock": existing, "the data now": lock})
    sentences = [each.sentence for each in differences[:3]]
    if len(differences) > 3:
        sentences.append(f"and {len(differences) - 3} more")
    return "; ".join(sentences)


def _file_text(
    before: Mapping[str, DomainContents], now: Mapping[str, DomainContents], limit: int = 3
) -> str:
    """Names the first files whose content differs; "" if none is known."""
    shown = list(itertools.islice(differing_files(before, now), limit + 1))
    more = ", ..." if len(shown) > limit else ""
    return f"; changed files: {', '.join(shown[:limit])}{more}" if shown else ""


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
