"""List of the unreadable images of a run, one JSON line each.

This module imports neither torch nor ray.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that could not be decoded.

    Attributes:
        path: path of the file.
        reason: error message of the decoder.
        domain: name of the domain that contains the image.
        split: "train", "validation" or "test".
    """

    path: str
    reason: str
    domain: str
    split: str


class UnreadableImages:
    """Appends unreadable images to `quarantine.jsonl`, each path once per run; thread-safe.

    Only one object may write to a file at a time: that of the only process, or that of the stream
    actor.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = _listed_paths(file)

    def add(self, images: Iterable[UnreadableImage]) -> None:
        """Appends the images whose path is not listed yet."""
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
    complete, _, incomplete = text.rpartition("\n")
    if incomplete:
        # A writer was killed while writing this line; the image is reported again.
        file.write_text(complete + "\n" if complete else "", encoding="utf-8")
    return {json.loads(line)["path"] for line in complete.splitlines()}
