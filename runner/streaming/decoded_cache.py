"""Cache of decoded images: shared by the trials of a sweep, or kept by a run between evaluations.

A `SharedDecoder` replaces `decode_many`, so the streams of sweep trials need no special code. A
cached image is used only if path, file size, modification time, height and width all match those at
decoding time. All other files are decoded, and files that were unreadable are tried again.

This module imports neither torch nor ray: each decoding process loads it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from runner.streaming.image_decoding import DecodedImages, Decoder, decode_many

if TYPE_CHECKING:
    from tasks.schema import Domain

_MISSING = (-1, -1)
"""The stamp of a missing file."""

_SIZE_SAMPLES = 32
"""Files per split whose sizes estimate the decoding time of the split."""


@dataclass(frozen=True)
class SharedBlock:
    """A block of decoded files.

    Attributes:
        paths: paths of the files.
        stamps: size in bytes and modification time in nanoseconds of each file, read before the
            file is decoded; a file that changes during decoding therefore does not match later.
        images: decoded images, in the order of `paths`; may be read-only shared memory.
    """

    paths: Sequence[str]
    stamps: Sequence[tuple[int, int]]
    images: DecodedImages


def decode_block(
    paths: Sequence[str], height: int, width: int, decode: Decoder | None = None
) -> SharedBlock:
    """Decodes files, by default with `decode_many`, into a block that can be cached."""
    stamps = [_stamp(path) for path in paths]
    return SharedBlock(paths, stamps, (decode or decode_many)(paths, height, width))


class SharedFiles(Protocol):
    """Picklable handle to decoded images that are shared between the trials of a sweep."""

    def decoder(self) -> SharedDecoder | None:
        """Returns a decoder for this process; None if the images are not accessible."""
        ...


@dataclass(frozen=True)
class _CacheEntry:
    """Location and file stamp of a decoded file."""

    block: int
    row: int
    stamp: tuple[int, int]
    readable: bool


class SharedDecoder:
    """A `Decoder` that returns cached pixels where possible and decodes all other files.

    Args:
        blocks: the decoded files.
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
    """

    def __init__(self, blocks: Sequence[SharedBlock], height: int, width: int) -> None:
        self._pixels: list[np.ndarray] = []
        self._entries: dict[str, _CacheEntry] = {}
        self._height, self._width = height, width
        for block in blocks:
            self.add(block)

    def add(self, block: SharedBlock) -> None:
        """Adds a block; the pixels are not copied."""
        number, errors = len(self._pixels), block.images.errors
        self._pixels.append(block.images.pixels)
        for row, (path, stamp) in enumerate(zip(block.paths, block.stamps, strict=True)):
            self._entries[path] = _CacheEntry(number, row, stamp, row not in errors)

    def __call__(self, paths: Sequence[str], height: int, width: int) -> DecodedImages:
        """Returns the same result as `decode_many`.

        The pixels are a read-only view if all files are adjacent in one block.
        """
        if (height, width) != (self._height, self._width):
            return decode_many(paths, height, width)
        entries = [self._entry(path) for path in paths]
        if (view := self._view(entries)) is not None:
            return DecodedImages(view, {})
        missing = [at for at, entry in enumerate(entries) if entry is None or not entry.readable]
        decoded = decode_many([paths[at] for at in missing], height, width)
        pixels = np.empty((len(paths), height, width, 3), np.uint8)
        pixels[missing] = decoded.pixels
        for at, entry in enumerate(entries):
            if entry is not None and entry.readable:
                pixels[at] = self._pixels[entry.block][entry.row]
        return DecodedImages(pixels, {missing[at]: why for at, why in decoded.errors.items()})

    def contains(self, paths: Sequence[str], height: int, width: int) -> bool:
        """Whether all files are cached at this size, including those that were unreadable."""
        same_size = (height, width) == (self._height, self._width)
        return same_size and all(self._entry(path) is not None for path in paths)

    def _entry(self, path: str) -> _CacheEntry | None:
        """Returns the entry of a file; None if it is not cached or has changed."""
        entry = self._entries.get(path)
        return entry if entry is not None and entry.stamp == _stamp(path) else None

    def _view(self, entries: Sequence[_CacheEntry | None]) -> np.ndarray | None:
        """Returns a view of adjacent entries in one block; None if they are not adjacent."""
        first = entries[0] if entries else None
        if first is None:
            return None
        for at, entry in enumerate(entries):
            if entry is None or not entry.readable:
                return None
            if (entry.block, entry.row) != (first.block, first.row + at):
                return None
        return self._pixels[first.block][first.row : first.row + len(entries)]


class EvaluationCache(SharedDecoder):
    """Test and validation images that a process keeps from one evaluation to the next.

    Args:
        files: files to keep, chosen by `select_within_budget`; blocks with others are not kept.
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
    """

    def __init__(self, files: Iterable[str], height: int, width: int) -> None:
        super().__init__([], height, width)
        self._files = frozenset(files)

    def keep(self, block: SharedBlock) -> None:
        """Keeps a block if all its files are to be kept and none is known.

        A file that changed after it was kept is therefore decoded at each use, and the memory does
        not grow.
        """
        if self._files.issuperset(block.paths) and self._entries.keys().isdisjoint(block.paths):
            self.add(block)

    def clear(self) -> None:
        """Releases all images and keeps no others."""
        self._pixels.clear()
        self._entries.clear()
        self._files = frozenset[str]()


def evaluation_files(domains: Iterable[Domain]) -> list[list[str]]:
    """Groups the test and validation images by split, in descending order of usefulness.

    All decoded images take the same memory, and each row of the result matrix decodes every split.
    The time that a cached byte saves is therefore proportional to the decoding time per image,
    which grows with the size of the file: splits are sorted by the mean size of their files,
    estimated from a sample. Each file occurs once.
    """
    splits = [
        (*split.query, *split.gallery) if split.query_by == "image" else split.gallery
        for domain in domains
        for split in (domain.test, domain.validation)
    ]
    groups = _distinct([record.image_path for record in records] for records in splits)
    return sorted(groups, key=_mean_file_size, reverse=True)


def training_files(domains: Iterable[Domain], known: Collection[str] = ()) -> list[list[str]]:
    """Groups the training images by domain, in order. Each file occurs once, without `known`."""
    return _distinct(([record.image_path for record in each.train] for each in domains), known)


def _distinct(groups: Iterable[Sequence[str]], known: Collection[str] = ()) -> list[list[str]]:
    """Removes repeated files, files in `known` and empty groups."""
    seen = set(known)
    result: list[list[str]] = []
    for group in groups:
        result.append([path for path in dict.fromkeys(group) if path not in seen])
        seen.update(group)
    return [group for group in result if group]


def _mean_file_size(paths: Sequence[str]) -> float:
    sample = paths[:: max(1, len(paths) // _SIZE_SAMPLES)]
    return sum(_stamp(path)[0] for path in sample) / len(sample)


def select_within_budget(groups: Sequence[Sequence[str]], num_images: int) -> list[Sequence[str]]:
    """Selects groups in order up to `num_images` files in total; too large groups are skipped."""
    selected: list[Sequence[str]] = []
    for group in groups:
        if len(group) <= num_images:
            selected.append(group)
            num_images -= len(group)
    return selected


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _MISSING
    return status.st_size, status.st_mtime_ns
