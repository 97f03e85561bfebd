"""Sizes and content hashes of image files, for the protocol lock.

All files of a list are hashed up to a budget. Beyond it, all sizes are compared but only a sample
of the files is hashed; the sample depends on the paths alone, so it is the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.schema import Record

MAX_FILES = 10_000
"""Number of files of a list up to which all are hashed."""

MAX_BYTES = 1 << 30
"""Total size of a list up to which all files are hashed."""

SAMPLE_SIZE = 1_000
"""Number of files that are hashed of a list beyond the budget."""

_NUM_THREADS = 8
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content of one file.

    Attributes:
        num_bytes: size of the file; None if it cannot be read.
        sha256: hash of the file; None if it is not in the sample or cannot be read.
    """

    num_bytes: int | None
    sha256: str | None


ListContents = Mapping[str, FileContent]
"""Contents of the files of one list, by path relative to the folder of the data set."""

DomainContents = Mapping[str, ListContents]
"""Contents by list: train, validation_query, validation_gallery, test_query, test_gallery."""


def read_contents(folder: Path, lists: Mapping[str, Iterable[Record]]) -> DomainContents:
    """Read sizes and hashes of the images of a domain.

    Args:
        folder: folder of the data set, to which the returned paths are relative.
        lists: records by name of the list.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return {
            name: _read_list(folder, {record.image_path for record in records}, pool)
            for name, records in lists.items()
        }


def lock_contents(files: ListContents) -> dict[str, Any]:
    """Summarise the contents of a list for the lock."""
    lines = sorted((path, each.num_bytes, each.sha256) for path, each in files.items())
    return {
        "num_files": len(lines),
        "num_bytes": sum(num_bytes or 0 for _, num_bytes, _ in lines),
        "num_hashed": sum(1 for _, _, digest in lines if digest is not None),
        "sizes_sha256": _hash(f"{path}\t{num_bytes}" for path, num_bytes, _ in lines),
        "sha256": _hash(f"{path}\t{digest}" for path, _, digest in lines if digest is not None),
    }


def _read_list(folder: Path, paths: set[str], pool: ThreadPoolExecutor) -> ListContents:
    prefix = f"{folder}{os.sep}"
    # pathlib takes seconds for 100,000 paths.
    relative = {path.removeprefix(prefix).replace(os.sep, "/"): path for path in paths}
    names = sorted(relative)
    stats = dict(zip(names, _map(pool, _stat, (relative[name] for name in names)), strict=True))
    selected = [name for name in _selected(stats) if stats[name] is not None]
    keys = ((relative[name], stats[name]) for name in selected)
    hashes = dict(zip(selected, _map(pool, lambda key: _digest(*key), keys), strict=True))
    return {
        name: FileContent(stat[0] if stat else None, hashes.get(name))
        for name, stat in stats.items()
    }


def _selected(stats: Mapping[str, tuple[int, ...] | None]) -> list[str]:
    """Return the names to hash: all within the budget, otherwise those with the smallest hash."""
    num_bytes = sum(stat[0] for stat in stats.values() if stat)
    if len(stats) <= MAX_FILES and num_bytes <= MAX_BYTES:
        return list(stats)
    return sorted(stats, key=lambda name: hashlib.sha256(name.encode()).digest())[:SAMPLE_SIZE]


def _map(pool: ThreadPoolExecutor, function: Any, items: Iterable[Any]) -> list[Any]:
    """Map in chunks: a future per file would take longer than reading a small file."""
    listed = list(items)
    chunks = [listed[start : start + _CHUNK] for start in range(0, len(listed), _CHUNK)]
    results = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
    return [result for chunk in results for result in chunk]


def _stat(path: str) -> tuple[int, int, int] | None:
    """Return size, modification time and change time in ns; None if the file does not exist."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=200_000)
def _digest(path: str, _stat: tuple[int, ...] | None) -> str | None:
    """Hash a file; cached by size and times for processes that read a benchmark repeatedly."""
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def differing_files(
    before: Mapping[str, DomainContents], now: Mapping[str, DomainContents]
) -> Iterator[str]:
    """Describe the files that differ between two readings, in the order of `now`.

    Only files that both readings contain are compared: added and removed files are differences of
    the lists. A file hashed in only one reading is compared by size.

    Args:
        before: contents by domain and list.
        now: the same, read later.
    """
    for domain, lists in now.items():
        for name, files in lists.items():
            earlier = before.get(domain, {}).get(name, {})
            for path, content in files.items():
                if path in earlier and (text := _change(earlier[path], content)):
                    yield f"{domain}/{path} ({text})"


def _change(before: FileContent, now: FileContent) -> str:
    if before.num_bytes != now.num_bytes:
        first, second = (
            "not readable" if each.num_bytes is None else f"{each.num_bytes:,} bytes"
            for each in (before, now)
        )
        return f"{first} then, {second} now"
    hashes = {before.sha256, now.sha256}
    return "same size, other content" if len(hashes - {None}) == 2 else ""
