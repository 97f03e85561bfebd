"""The event spool: what a run reports goes to one JSON-lines file first, and only then elsewhere.

The driver and rank 0 append, the screen and the tracker read. A tracking server that is slow or
dead therefore never touches training, and nothing that was reported is lost with it.

A line is `{"time": unix seconds, "event": kind, ...fields}`. The kinds and their fields:

- `run`: name, preset, learner, benchmark, seed, seen, unseen, params (by dotted path),
  git_revision, attempt, total_iterations if it is known. Written by the driver at each start.
- `plan`: total_iterations of the whole run, first_iteration of this start. Written by rank 0.
- `stage`: domain, domain_index (from 0), stage, epochs, iterations_per_epoch, first_iteration.
- `iteration`: domain, domain_index, stage, epoch, iteration (counts through the whole run; written
  again under the same number where a resumed run repeats it), loss, terms, weights, lr,
  images_per_s.
- `evaluation`: step (0..T), split ("test" or "validation"), scores ({domain: {metric: percent}}),
  seconds.
- `domain_finished`: domain, domain_index, timings ({name: seconds}).
- `log`: level ("info" or "warning"), message.
- `finished`: summary, timings. `failed`: error.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

Event: TypeAlias = dict[str, Any]


class EventSlice(NamedTuple):
    """What `read_events` found.

    Attributes:
        events: in the order of the file.
        offset: byte position after the last complete line; where the next read goes on.
        num_malformed: lines skipped because a crash tore them or they are no event.
    """

    events: list[Event]
    offset: int
    num_malformed: int


@dataclass(frozen=True)
class EventLog:
    """Appends events to the file at `path`, from any number of threads and processes of one host.

    The file is opened anew for every event: the spool can be pickled to a worker, survives a fork,
    and costs tens of microseconds. Every event is one `write` on a file opened for appending, which
    a local file system does not interleave with others'.
    """

    path: Path

    def emit(self, event: str, **fields: JSON) -> None:
        """Appends one event; its time is now.

        Numbers that JSON does not know (NaN and the infinities) become the strings "nan", "inf"
        and "-inf", so that a diverged loss stays apart from a missing one; `as_number` reads them.

        Raises:
            TypeError: a field is not made of JSON's types (a tensor, say).
            OSError: the storage cannot be written, or is full.
        """
        record = {"time": time.time(), "event": event}
        record.update({name: _plain(value, f"{event}.{name}") for name, value in fields.items()})
        line = json.dumps(record, allow_nan=False, separators=(",", ":"))
        _append(self.path, line.encode() + b"\n")


def read_events(path: Path, offset: int = 0, max_bytes: int | None = None) -> EventSlice:
    """The events on the complete lines from byte `offset` on.

    A last line without its newline is still being written: it is left for the next read. A file
    that does not exist yet holds no events.

    Args:
        path: the spool.
        offset: 0, or the `offset` of an earlier read.
        max_bytes: stop after about so many bytes (at the end of the line that reaches them).
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
    written = [line for line in lines if line.strip()]
    events = [event for line in written if (event := _parse(line)) is not None]
    return EventSlice(events, offset, len(written) - len(events))


def as_number(value: object) -> float | None:
    """A number out of an event, "nan" and "inf" included; None for whatever is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    return float(value)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A writer that died in mid-line leaves no newline; without one here, this event would be
        # lost with the torn line. Two writers doing this at once leave an empty line: harmless.
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(f"{path}: an event was cut short; is the storage full?")
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
    """`value` as json.dumps takes it, non-finite numbers as strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise TypeError(
        f"event field {path}: expected JSON (null, bool, number, string, list, mapping), "
        f"got {type(value).__name__}; convert it where the event is made"
    )
