"""The run's list of unreadable images: one JSON line each, written once (no torch, no ray)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that could not be decoded.

    Attributes:
        path: the file.
        reason: what the decoder said.
        domain: name of the domain that lists it.
        split: "train", "validation" or "test".
    """

    path: str
    reason: str
    domain: str
    split: str


class Quarantine:
    """Appends to `quarantine.jsonl`, each path once in the life of the run; thread-safe.

    One object writes a file at a time: that of the only process, or that of the run's actor.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = _listed_paths(file)

    def add(self, images: Iterable[BadImage]) -> None:
        """Lists those images whose path is not listed yet."""
        with self._lock:
            new = {image.path: image for image in images if image.path not in self._known}
            if not new:
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(asdict(image)) + "\n" for image in new.values())
            self._known.update(new)


def _listed_paths(file: Path) -> set[str]:
    if not file.exists():
        return set()
    text = file.read_text(encoding="utf-8")
    complete, _, torn = text.rpartition("\n")
    if torn:
        # The writer was killed in mid-line; what it had not finished is found and listed again.
        file.write_text(complete + "\n" if complete else "", encoding="utf-8")
    return {json.loads(line)["path"] for line in complete.splitlines()}
