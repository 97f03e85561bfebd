"""Store of descriptions: Parquet shards in a folder, with image hashes as keys.

Answers cost money, so each is on disk before the next request: `add` appends a line to the journal
(`journal.jsonl`). When the journal has enough lines for a shard, they are written to a temporary
Parquet file, which is then renamed. A killed process loses at most an incomplete last line. Rows
that are in a shard and still in the journal count once.
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
    """Description of one image, or the reason of its failure. Fields are columns on disk.

    Attributes:
        image: SHA-256 of the image file, in hexadecimal.
        asked: prompt version, backend and model, such as "parts-1a2b3c4d/openai/some-model".
        texts: texts by field; empty after a failure.
        reason: reason of the failure, or "".
        is_passing: whether the failure is transient (server or network).
        num_tries: number of answers that were validated.
    """

    image: str
    asked: str
    texts: Mapping[str, str]
    reason: str = ""
    is_passing: bool = False
    num_tries: int = 1

    @property
    def is_done(self) -> bool:
        """Whether the image has a description."""
        return not self.reason


class DescriptionStore:
    """Descriptions in one folder; a context manager, open in one process at a time.

    Args:
        folder: folder of the store; created if it does not exist.
        rows_per_shard: number of journal lines per shard.
    """

    def __init__(self, folder: Path, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self.folder = folder
        self._journal_file = folder / "journal.jsonl"
        self._rows_per_shard = rows_per_shard
        self._lock = threading.Lock()
        self._lock_file: IO[str] | None = None
        self._journal: IO[str] | None = None
        self._pending: list[Row] = []

    def __enter__(self) -> DescriptionStore:
        """Locks the folder, and moves the journal of a killed process into a shard.

        Raises:
            PermissionError: The folder is not writable.
            RuntimeError: Another process has opened the store.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self.folder / ".owner").open("a")
        except OSError as error:
            raise PermissionError(
                f"--output: cannot write to {self.folder} ({error.strerror}); choose a "
                "writable folder"
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise RuntimeError(
                f"{self.folder} is being written by another process; wait for it, stop it, or "
                "choose another --output"
            ) from error
        self._pending = list(_journal_rows(self._journal_file))
        self._write_pending()
        self._journal = self._journal_file.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._write_pending()
            if self._journal is not None:
                self._journal.close()
            if self._lock_file is not None:
                self._lock_file.close()

    def add(self, row: Row) -> None:
        """Adds a row, which is on disk when this method returns. Thread-safe."""
        with self._lock:
            assert self._journal is not None, "the store is not open"
            self._journal.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
            self._pending.append(row)
            if len(self._pending) >= self._rows_per_shard:
                self._write_pending()

    def rows(self, source: str) -> dict[str, Row]:
        """Latest row of every image, by image hash, among the rows with `asked == source`."""
        rows: dict[str, Row] = {}
        for path in _shards(self.folder):
            rows.update((row.image, row) for row in _shard_rows(path) if row.asked == source)
        rows.update((row.image, row) for row in self._pending if row.asked == source)
        return rows

    def _write_pending(self) -> None:
        """Writes pending rows to a shard, then empties the journal, so that no row is lost."""
        if self._pending:
            shards = _shards(self.folder)
            number = 1 + (int(shards[-1].stem.partition("-")[2]) if shards else 0)
            _write_shard(self.folder / f"shard-{number:06d}.parquet", self._pending)
            self._pending = []
        if self._journal is not None:
            self._journal.truncate(
                0
            )  # the file is in append mode, so the next line is written at its start
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
            f"{path} is damaged or of another version ({str(error)[:80]}); remove it to describe "
            "its images again"
        ) from error


def _journal_rows(path: Path) -> Iterator[Row]:
    """Reads all complete lines; a killed process may have left an incomplete last line."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            yield Row(**json.loads(line))
        except (ValueError, TypeError):
            continue
