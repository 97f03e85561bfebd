"""Files that somebody has decoded already, served as `decode_many` would serve them (no ray here).

A `SharedDecoder` takes the place of `decode_many`, so that a trial's stream is the ordinary one.
It never serves wrong pixels: a file counts as decoded only at the same path, with the size and the
time of change that it had before it was decoded, and at the same height and width. Any other file
is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runner.pixels import DecodedImages, decode_many
from tasks.schema import Benchmark

_MISSING = (-1, -1)
"""The stamp of a file that is not there."""


@dataclass(frozen=True)
class FileList:
    """The files that were decoded, in order.

    Attributes:
        paths: all different.
        stamps: int64 [N, 2], size in bytes and time of change in nanoseconds; as they were before
            the files were read, so that what changed while it was read counts as another file.
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
    """

    paths: tuple[str, ...]
    stamps: np.ndarray
    height: int
    width: int

    @staticmethod
    def of(paths: Sequence[str], height: int, width: int) -> FileList:
        """Files that are about to be decoded."""
        stamps = np.array([_stamp(path) for path in paths], np.int64).reshape(-1, 2)
        return FileList(tuple(paths), stamps, height, width)


class SharedFiles(Protocol):
    """What a run is given by whom its files were decoded; may travel to other processes."""

    def decoder(self) -> SharedDecoder | None:
        """What serves the files in this process; None if they cannot be had."""
        ...


class SharedDecoder:
    """Files to pixels, a `Decoder`: from shared memory where it can, by `decode_many` elsewhere.

    Args:
        files: what was decoded.
        blocks: together the files in order; their pixels may be read-only shared memory.
    """

    def __init__(self, files: FileList, blocks: Sequence[DecodedImages]) -> None:
        self._files = files
        self._blocks = list(blocks)
        self._starts = np.cumsum([0, *(len(block.pixels) for block in blocks)])
        stamps: list[list[int]] = files.stamps.tolist()
        pairs = enumerate(zip(files.paths, stamps, strict=True))
        self._known = {path: (row, tuple(stamp)) for row, (path, stamp) in pairs}

    def __call__(self, paths: Sequence[str], height: int, width: int) -> DecodedImages:
        """The images of files, in order.

        Returns:
            What `decode_many` returns; files that lie beside one another in a block come as a
            read-only view of it.
        """
        if (height, width) != (self._files.height, self._files.width):
            return decode_many(paths, height, width)
        rows = np.array([self._row(path) for path in paths], np.int64)
        others = np.flatnonzero(rows < 0)
        if len(rows) and not len(others) and (np.diff(rows) == 1).all():
            first, last = self._place(rows[0]), self._place(rows[-1])
            if first[0] is last[0]:
                block, start, stop = first[0], first[1], last[1] + 1
                errors = {at - start: why for at, why in block.errors.items() if start <= at < stop}
                return DecodedImages(block.pixels[start:stop], errors)
        pixels = np.empty((len(rows), height, width, 3), np.uint8)
        decoded = decode_many([paths[position] for position in others.tolist()], height, width)
        pixels[others] = decoded.pixels
        errors = {int(others[at]): why for at, why in decoded.errors.items()}
        for position in np.flatnonzero(rows >= 0).tolist():
            block, at = self._place(rows[position])
            pixels[position] = block.pixels[at]
            if at in block.errors:
                errors[position] = block.errors[at]
        return DecodedImages(pixels, errors)

    def serves(self, paths: Sequence[str], height: int, width: int) -> bool:
        """Whether nothing would be left to decode."""
        same_size = (height, width) == (self._files.height, self._files.width)
        return same_size and all(self._row(path) >= 0 for path in paths)

    def _place(self, row: int) -> tuple[DecodedImages, int]:
        """The block that holds a decoded file, and where in it."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._blocks[number], int(row - self._starts[number])

    def _row(self, path: str) -> int:
        """Where a file is among the decoded ones; -1 if it is not, or no longer the same."""
        row, stamp = self._known.get(path, (-1, None))
        return row if stamp == _stamp(path) else -1


def files_in_order(benchmark: Benchmark) -> list[list[str]]:
    """A benchmark's files in portions, those first that sharing saves most of.

    Test and validation images, which a run decodes anew for every row of its result matrix, domain
    by domain as they are evaluated; then the training images of each seen domain. No file comes
    twice.
    """
    tests = [
        (*split.query, *split.gallery) if split.query_by == "image" else split.gallery
        for domain in benchmark.domains
        for split in (domain.test, domain.validation)
    ]
    known = set[str]()
    portions: list[list[str]] = []
    for records in (*tests, *(domain.train for domain in benchmark.seen)):
        portion = dict.fromkeys(each.image_path for each in records)
        portions.append([path for path in portion if path not in known])
        known.update(portion)
    return [portion for portion in portions if portion]


def fitting(portions: Sequence[Sequence[str]], num_images: int) -> list[Sequence[str]]:
    """The portions that together are at most `num_images` files; one too large is passed over."""
    chosen: list[Sequence[str]] = []
    for portion in portions:
        if len(portion) <= num_images:
            chosen.append(portion)
            num_images -= len(portion)
    return chosen


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return _MISSING
    return found.st_size, found.st_mtime_ns
