"""Event log: a run writes all its reports to one JSON-lines file before anything else reads them.

The driver and rank 0 append; the console and the tracker read. A slow or unreachable tracking
server therefore never affects training, and no report is lost.

A line is `{"time": unix seconds, "event": kind, ...fields}`. The kinds and their fields:

- `run`: name, preset, learner, benchmark, seed, seen, unseen, params (by dotted path),
  git_revision, attempt, total_iterations if known. Written by the driver at each start.
- `plan`: total_iterations of the whole run, first_iteration of this start. Written by rank 0.
- `stage`: domain, domain_index (from 0), stage, epochs, iterations_per_epoch, first_iteration.
- `iteration`: domain, domain_index, stage, epoch, iteration (counted over the whole run; a resumed
  run writes repeated iterations again under the same number), loss, terms, weights, lr,
  images_per_s; gradient_norm (before clipping) with `training.clip_norm`.
- `evaluation`: step (0..T), split ("test" or "validation"), scores ({domain: {metric: percent}}),
  seconds.
- `candidate`: domain, epoch (epochs of the last stage that are done), validation and test (scores
  by metric), with `evaluation.every_epochs`; written again if the epoch is repeated after a kill.
- `domain_finished`: domain, domain_index, timings ({name: seconds}).
- `log`: level ("info" or "warning"), message.
- `finished`: summary, timings. `failed`: error.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from runner.config.disk_space import explain_full_disk
from runner.config.redaction import masked

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

Event: TypeAlias = dict[str, Any]


class EventSlice(NamedTuple):
    """Result of `read_events`.

    Attributes:
        events: events in the order of the file.
        offset: byte position after the last complete line; pass it to the next read.
        num_malformed: number of skipped lines: cut off by a crash, or not an event.
    """

    events: list[Event]
    offset: int
    num_malformed: int


@dataclass(frozen=True)
class EventLog:
    """Appends events to the file at `path`, from any number of threads and processes of one host.

    The file is reopened for every event, which takes tens of microseconds: the log can be pickled
    to a worker and survives a fork. Every event is one `write` to a file opened for appending,
    which a local file system does not interleave with other writes.
    """

    path: Path

    def emit(self, event: str, **fields: JSON) -> None:
        """Appends one event with the current time.

        NaN and infinities, which JSON cannot represent, become the strings "nan", "inf" and "-inf",
        so that a diverged loss differs from a missing one; `as_number` converts them back.

        Raises:
            TypeError: a field is not a JSON value (for example a tensor).
            OSError: the storage is not writable or full.
        """
        record = {"time": time.time(), "event": event}
        record.update({name: _plain(value, f"{event}.{name}") for name, value in fields.items()})
        line = json.dumps(record, allow_nan=False, separators=(",", ":"))
        with explain_full_disk(self.path):
            _append(self.path, line.encode() + b"\n")


def read_events(path: Path, offset: int = 0, max_bytes: int | None = None) -> EventSlice:
    """Reads the events on complete lines from byte `offset` on.

    A last line without newline is still being written and left for the next read. A file that does
    not exist yet has no events.

    Args:
        path: event log.
        offset: 0, or the `offset` of an earlier read.
        max_bytes: stop at the end of the line that reaches this number of bytes.
    """
    lines: list[bytes] = []
    try:
        with path.open("rb") as file:
            file.seek(offset)
            end = math.inf if max_bytes is None else offset + max_bytes
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines.append(line)
                offset += len(line)
                if offset >= end:
                    break
    except FileNotFoundError:
        return EventSlice([], offset, 0)
    lines = [line for line in lines if line.strip()]
    events = [event for line in lines if (event := _parse(line)) is not None]
    return EventSlice(events, offset, len(lines) - len(events))


def as_number(value: object) -> float | None:
    """Converts an event field to a number ("nan" and "inf" included), or None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    return float(value)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A crashed writer may leave a partial line, which would swallow this event: start a new
        # line. If two writers do this at once, they leave an empty line, which is harmless.
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "event written only in part", str(path))
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    return event if as_number(event.get("time")) is not None else None


def _plain(value: JSON, path: str) -> Any:
    """Converts `value` for json.dumps: non-finite numbers become strings, passwords are masked."""
    if isinstance(value, str):
        return masked(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise TypeError(
        f"event field {path}: expected JSON (null, bool, number, string, list, mapping), "
        f"got {type(value).__name__}; convert it before emitting the event"
    )
