"""Errors of a full disk: recognised in every library, and explained in one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ERRNOS = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "the file exceeds the size limit of the process or file system",
}
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "disk is full": errno.ENOSPC,  # SQLite
    "disk quota exceeded": errno.EDQUOT,
    "os error 27": errno.EFBIG,
}


class DiskFullError(OSError):
    """A file cannot be written because the storage is full."""


def full_disk_errno(error: BaseException) -> int | None:
    """Returns ENOSPC, EDQUOT or EFBIG if an error or one of its causes is a full disk.

    Libraries written in C++ and Rust raise their own exceptions; they are recognised by the message
    of the operating system.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in _ERRNOS:
            return current.errno
        text = str(current).lower()
        if number := next((number for part, number in _TEXTS.items() if part in text), None):
            return number
        current = current.__cause__ or current.__context__
    return None


@contextmanager
def explain_full_disk(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Raises a `DiskFullError` that names the file if the storage is full inside the block.

    Args:
        path: file or folder that the block writes.
        needed_bytes: size of what it writes, if known.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number = full_disk_errno(error)
        if number is None:
            raise
        raise DiskFullError(number, _sentence(path, number, needed_bytes)) from error


def full_disk_message(error: BaseException) -> str | None:
    """Returns the sentence about a full disk for any error; None if it has another cause."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, DiskFullError):
            return str(current.strerror)
        current = current.__cause__ or current.__context__
    number = full_disk_errno(error)
    if number is None:
        return None
    name = error.filename if isinstance(error, OSError) else None
    return _sentence(Path(str(name)), number, None) if name else f"{_ERRNOS[number]}: {error}"


def _sentence(path: Path, number: int, needed_bytes: int | None) -> str:
    facts: list[str] = []
    if needed_bytes is not None:
        facts.append(f"{_megabytes(needed_bytes)} needed")
    existing = next((each for each in (path, *path.parents) if each.exists()), None)
    if existing is not None and number == errno.ENOSPC:
        facts.append(f"{_megabytes(shutil.disk_usage(existing).free)} free")
    return f"cannot write {path}: {_ERRNOS[number]}" + (f" ({', '.join(facts)})" if facts else "")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
