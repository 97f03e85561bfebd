"""Unreadable images of a run: their list on disk, and their removal from a domain.

This module imports neither torch nor ray, because the stream actor loads it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runner.config.disk_space import explain_full_disk
from runner.config.json_files import read_lines, write_atomically

if TYPE_CHECKING:
    from tasks.schema import Benchmark, Domain


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
            with explain_full_disk(self._file), self._file.open("a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(asdict(image)) + "\n" for image in new.values())
            self._known.update(new)


def clean_domain(
    domain: Domain, errors: Mapping[int, str], max_bad_share: float
) -> tuple[Domain, np.ndarray]:
    """Removes unreadable training images from a domain.

    Args:
        domain: the domain as listed by the benchmark.
        errors: error message by position in `domain.train`.
        max_bad_share: maximum share of unreadable training images, in [0, 1].

    Returns:
        The cleaned domain, and [N] positions of its images in the original `domain.train`.

    Raises:
        ValueError: the share is exceeded.
    """
    num_images = len(domain.train)
    if len(errors) > max_bad_share * num_images:
        first = "; ".join(
            f"{domain.train[position].image_path} ({errors[position]})"
            for position in sorted(errors)[:3]
        )
        raise ValueError(
            f"{domain.name}: expected at most {max_bad_share:.2%} unreadable training images "
            f"(data.max_bad_share), got {len(errors)} of {num_images} "
            f"({len(errors) / num_images:.2%}). First: {first}. Repair these files (all are listed "
            "in quarantine.jsonl), or raise data.max_bad_share"
        )
    kept = np.delete(np.arange(num_images), sorted(errors))
    return domain.without(errors.keys()), kept


def unreadable_training_images(domain: Domain, errors: Mapping[int, str]) -> list[UnreadableImage]:
    """Lists the unreadable training images of a domain; `errors` is by position."""
    return [
        UnreadableImage(domain.train[position].image_path, errors[position], domain.name, "train")
        for position in sorted(errors)
    ]


def unreadable_images(
    benchmark: Benchmark, paths: Sequence[str], errors: Mapping[int, str]
) -> list[UnreadableImage]:
    """Lists the unreadable images among files of any domain and split; `errors` is by position."""
    places = {
        record.image_path: (domain.name, name)
        for domain in benchmark.domains
        for name, records in (
            ("train", domain.train),
            ("validation", domain.validation.query + domain.validation.gallery),
            ("test", domain.test.query + domain.test.gallery),
        )
        for record in records
    }
    return [
        UnreadableImage(paths[position], errors[position], *places.get(paths[position], ("", "")))
        for position in sorted(errors)
    ]


def _listed_paths(file: Path) -> set[str]:
    """Reads the listed paths; removes damaged lines, whose images are reported again."""
    lines, num_damaged = read_lines(
        file, lambda line: isinstance(line, dict) and isinstance(line.get("path"), str)
    )
    if num_damaged:
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in lines))
    return {line["path"] for line in lines}
