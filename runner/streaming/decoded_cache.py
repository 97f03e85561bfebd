"""Files that somebody has decoded already, served as `decode_many` would serve them (no ray here).

A `SharedDecoder` takes the place of `decode_many`, so that a trial's stream is the ordinary one.
It never serves wrong pixels: a file counts as decoded only at the same path, with the size and the
time of change that the decoding process saw before it read the file, and at the same height and
width. Any other file is decoded, and one that was unreadable is tried again.

No torch either: each decoding process loads this file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from runner.streaming.image_decoding import DecodedImages, decode_many

if TYPE_CHECKING:
    from tasks.schema import Benchmark

_MISSING = (-1, -1)
"""The stamp of a file that is not there."""


@dataclass(frozen=True)
class SharedBlock:
    """Files that were decoded together.

    Attributes:
        paths: in order.
        stamps: size in bytes and time of change in nanoseconds of each, as they were before the
            file was read: one that changed while it was read counts as another file.
        images: may be read-only shared memory.
    """

    paths: Sequence[str]
    stamps: Sequence[tuple[int, int]]
    images: DecodedImages


def decode_block(paths: Sequence[str], height: int, width: int) -> SharedBlock:
    """Decodes files for others."""
    stamps = [_stamp(path) for path in paths]
    return SharedBlock(paths, stamps, decode_many(paths, height, width))


class SharedFiles(Protocol):
    """What a run is given by whom its files were decoded; may travel to other processes."""

    def decoder(self) -> SharedDecoder | None:
        """What serves the files in this process; None if they cannot be had."""
        ...


@dataclass(frozen=True)
class _Place:
    """Where a decoded file is, and what it was."""

    block: int
    row: int
    stamp: tuple[int, int]
    readable: bool


class SharedDecoder:
    """Files to pixels, a `Decoder`: from shared memory where it can, by `decode_many` elsewhere.

    Args:
        blocks: what was decoded.
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
    """

    def __init__(self, blocks: Sequence[SharedBlock], height: int, width: int) -> None:
        self._pixels = [block.images.pixels for block in blocks]
        self._height, self._width = height, width
        self._places = {
            path: _Place(number, row, stamp, row not in block.images.errors)
            for number, block in enumerate(blocks)
            for row, (path, stamp) in enumerate(zip(block.paths, block.stamps, strict=True))
        }

    def __call__(self, paths: Sequence[str], height: int, width: int) -> DecodedImages:
        """The images of files, in order.

        Returns:
            What `decode_many` returns; files that lie beside one another in a block come as a
            read-only view of it.
        """
        if (height, width) != (self._height, self._width):
            return decode_many(paths, height, width)
        places = [self._place(path) for path in paths]
        if (view := self._view(places)) is not None:
            return DecodedImages(view, {})
        others = [at for at, place in enumerate(places) if place is None or not place.readable]
        decoded = decode_many([paths[at] for at in others], height, width)
        pixels = np.empty((len(paths), height, width, 3), np.uint8)
        pixels[others] = decoded.pixels
        for at, place in enumerate(places):
            if place is not None and place.readable:
                pixels[at] = self._pixels[place.block][place.row]
        return DecodedImages(pixels, {others[at]: why for at, why in decoded.errors.items()})

    def serves(self, paths: Sequence[str], height: int, width: int) -> bool:
        """Whether nothing but unreadable files would be left to decode."""
        same_size = (height, width) == (self._height, self._width)
        return same_size and all(self._place(path) is not None for path in paths)

    def _place(self, path: str) -> _Place | None:
        """None for a file that was not decoded, or is no longer the same."""
        place = self._places.get(path)
        return place if place is not None and place.stamp == _stamp(path) else None

    def _view(self, places: Sequence[_Place | None]) -> np.ndarray | None:
        """The pixels of neighbours in one block; None for any other files."""
        first = places[0] if places else None
        if first is None:
            return None
        for at, place in enumerate(places):
            if place is None or not place.readable:
                return None
            if (place.block, place.row) != (first.block, first.row + at):
                return None
        return self._pixels[first.block][first.row : first.row + len(places)]


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
