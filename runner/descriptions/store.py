"""Where descriptions are kept: Parquet shards of a folder, keyed by what an image's file holds.

An answer is paid for, so it is on disk before the next question: `add` appends a line to
`journal.jsonl`, and as many lines as make a shard are folded into a Parquet file that appears under
its name only when it is whole. Whatever the moment a process is killed at, at most a last, torn
line is lost; rows that are in a shard and still in the journal are one row.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_SHARD = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One image's description, or why there is none.

    Attributes:
        image: SHA-256 of the image file, in hexadecimal.
        asked: what was asked of whom, such as "parts-1a2b3c4d/openai/some-model".
        texts: by field; empty where it failed.
        reason: why it failed; "" where it did not.
        is_passing: the failure is that of a server or a network, and may pass.
        num_tries: questions it took.
    """

    image: str
    asked: str
    texts: Mapping[str, str]
    reason: str = ""
    is_passing: bool = False
    num_tries: int = 1

    @property
    def is_done(self) -> bool:
        """Whether there is a description."""
        return not self.reason


class DescriptionStore:
    """The descriptions of one folder; a context, open for one process at a time.

    Args:
        folder: made if need be.
        rows_per_shard: lines of the journal that are folded into a shard.
    """

    def __init__(self, folder: Path, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self.folder = folder
        self._journal_file = folder / "journal.jsonl"
        self._rows_per_shard = rows_per_shard
        self._lock = threading.Lock()
        self._owner: IO[str] | None = None
        self._journal: IO[str] | None = None
        self._pending: list[Row] = []

    def __enter__(self) -> DescriptionStore:
        """Takes the folder, and folds what a killed process left in the journal.

        Raises:
            PermissionError: the folder cannot be written.
            RuntimeError: another process writes it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = (self.folder / ".owner").open("a")
        except OSError as error:
            raise PermissionError(
                f"--output: cannot write to {self.folder} ({error.strerror}); choose a folder that "
                "you may write to"
            ) from error
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._owner.close()
            raise RuntimeError(
                f"{self.folder} is being written by another process; wait for it, stop it, or "
                "choose another --output"
            ) from error
        self._pending = list(_journal_rows(self._journal_file))
        self._fold()
        self._journal = self._journal_file.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._fold()
            if self._journal is not None:
                self._journal.close()
            if self._owner is not None:
                self._owner.close()

    def add(self, row: Row) -> None:
        """Keeps a row; it is on disk when this returns. Threads may call it side by side."""
        with self._lock:
            assert self._journal is not None, "the store is not open"
            self._journal.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
            self._pending.append(row)
            if len(self._pending) >= self._rows_per_shard:
                self._fold()

    def rows(self, asked: str) -> dict[str, Row]:
        """The newest row of every image that was asked this, by the image's hash."""
        found: dict[str, Row] = {}
        for path in _shards(self.folder):
            found.update((row.image, row) for row in _shard_rows(path) if row.asked == asked)
        found.update((row.image, row) for row in self._pending if row.asked == asked)
        return found

    def _fold(self) -> None:
        """Journal -> shard. The shard first: a row in both is one row, a row in none is lost."""
        if self._pending:
            shards = _shards(self.folder)
            number = 1 + (int(shards[-1].stem.partition("-")[2]) if shards else 0)
            _write_shard(self.folder / f"shard-{number:06d}.parquet", self._pending)
            self._pending = []
        if self._journal is not None:
            self._journal.truncate(0)  # opened to append: the next line begins the file
        elif self._journal_file.exists():
            self._journal_file.write_bytes(b"")


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-[0-9]*.parquet"))


def _write_shard(path: Path, rows: Sequence[Row]) -> None:
    columns = {
        name: [getattr(row, name) for row in rows]
        for name in ("image", "asked", "reason", "is_passing", "num_tries")
    }
    texts = pa.array([list(row.texts.items()) for row in rows], pa.map_(pa.string(), pa.string()))
    table = pa.table({**columns, "texts": texts})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _shard_rows(path: Path) -> Iterator[Row]:
    try:
        rows = pq.read_table(path).to_pylist()
        yield from (Row(**{**row, "texts": dict(row["texts"])}) for row in rows)
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or of another version ({str(error)[:80]}); move it away, and what "
            "it held is asked again"
        ) from error


def _journal_rows(path: Path) -> Iterator[Row]:
    """Whole lines; a process that was killed may have left a torn last one."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            yield Row(**json.loads(line))
        except (ValueError, TypeError):
            continue
