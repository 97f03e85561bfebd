"""Reading and writing of JSON files of a run folder; errors name the file and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from runner.config.disk_space import explain_full_disk


class DamagedFileError(ValueError):
    """A file of a run folder is truncated, overwritten or of another format."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({problem}); {remedy}")


def read_object(path: Path, *, keys: Collection[str] = (), remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.
        keys: keys that the object must have.
        remedy: what the user should do if the file is damaged; ends the message.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFileError: the file is not a JSON object with these keys.
    """
    content = path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DamagedFileError(path, _problem(content, error), remedy) from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DamagedFileError(path, f"expected a JSON object, got a {kind}", remedy)
    if missing := sorted(set(keys) - value.keys()):
        raise DamagedFileError(path, f"{', '.join(missing)} missing", remedy)
    return value


def read_lines(path: Path, is_valid: Callable[[Any], bool]) -> tuple[list[Any], int]:
    """Reads JSON lines and skips damaged ones, such as a last line cut off by a crash.

    Args:
        path: the file; it has no lines if it does not exist.
        is_valid: whether a parsed line has the expected format.

    Returns:
        The values of the valid lines, and the number of other lines that are not empty.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    values: list[Any] = []
    num_damaged = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            num_damaged += 1
            continue
        if is_valid(value):
            values.append(value)
        else:
            num_damaged += 1
    return values, num_damaged


def write_atomically(path: Path, text: str) -> None:
    """Writes a temporary file and renames it, so that readers see the old or the new text.

    The text is flushed to disk before the file is renamed; otherwise a power failure could leave an
    empty file under the final name. If writing fails, the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with explain_full_disk(path, len(text.encode())):
            temporary.write_text(text)
            flush_to_disk(temporary)
            temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Flushes a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(content: bytes, error: ValueError) -> str:
    if not content.strip():
        return "the file is empty"
    if not content.strip(b"\0"):
        return "it contains only zero bytes"
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()):
        return f"it ends within a JSON document of {len(content):,} bytes"
    return f"expected JSON: {error}"
