"""How images reach a worker: seen domains in lifelong order, test images in bounded memory.

The loop knows `DomainStream` alone. `LocalStream` is its implementation in one process; the one
over Ray lives in `runner.on_ray.image_stream`. Both decode by `runner.streaming.image_decoding`
and gather by `BlockImages`, so that the same plan gives bit-equal batches on either.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from runner.config.sections import DataConfig
from runner.streaming.image_decoding import DecodedImages, Decoder, decode_many
from runner.streaming.prefetch import ahead
from runner.streaming.unreadable_images import BadImage, Quarantine
from tasks.schema import Benchmark, Domain, Record

IMAGES_PER_BLOCK = 256
"""Images that are decoded and stored together: 25 MB at 256x128, a fraction of a second's work."""


class ImageSource(Protocol):
    """The training images of one opened domain; indices are those of the cleaned list."""

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """Pixel batches of a plan, in its order.

        Args:
            plan: [iterations, B] indices: this worker's share of an epoch or a whole stage.

        Yields:
            uint8 [B, H, W, 3], writable, the caller's own.
        """
        ...

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the images at [N] indices: uint8 [N, H, W, 3], writable, the caller's own."""
        ...


@dataclass(frozen=True)
class OpenedDomain:
    """A seen domain that is ready for training.

    Attributes:
        domain: without its unreadable training images, identities contiguous again.
        images: the training images, indexed as `domain.train` is.
        num_bad: unreadable training images that were left out.
    """

    domain: Domain
    images: ImageSource
    num_bad: int


class DomainStream(Protocol):
    """What brings images to one worker."""

    def open(self, index: int) -> OpenedDomain:
        """Waits until the training images of seen domain `index` are ready.

        The domain after it is decoded from now on in the background, and every other one is
        forgotten: two at most are held. Unreadable images are listed in the run's quarantine.

        Raises:
            ValueError: more than `data.max_bad_share` of the training images are unreadable.
        """
        ...

    def release(self, index: int) -> None:
        """Gives back the memory of a finished domain; its image source must not be used again."""
        ...

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes the images of records in order, in bounded memory and ahead of their use.

        Args:
            records: this worker's share of test or validation splits, from any domain; or the
                exemplars of earlier domains.

        Yields:
            [n] positions in `records` and their pixels, uint8 [n, H, W, 3], writable, with
            1 <= n <= data.evaluation_batch_size. Positions of unreadable images are absent, and
            their files are listed in the run's quarantine.
        """
        ...

    def close(self) -> None:
        """Stops the work in the background; the stream must not be used again."""
        ...


class BlockImages:
    """Decoded images of a domain, held in blocks that may be read-only shared memory.

    Args:
        blocks: uint8 [n_i, H, W, 3] each; together the whole training list in order.
        kept: [N] positions in the whole list of the images that can be read.
    """

    def __init__(self, blocks: Sequence[np.ndarray], kept: np.ndarray) -> None:
        self._blocks = list(blocks)
        self._starts = np.cumsum([0, *(len(block) for block in blocks)])
        self._kept = kept

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """One gather a batch."""
        for indices in plan:
            yield self.fetch(indices)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Copies images out of their blocks."""
        if not self._blocks:
            raise RuntimeError("the images of a released domain were asked for; open it again")
        rows = self._kept[indices]
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = rows - self._starts[owners]
        pixels = np.empty((len(rows), *self._blocks[0].shape[1:]), np.uint8)
        pairs = zip(owners.tolist(), offsets.tolist(), strict=True)
        for position, (owner, offset) in enumerate(pairs):
            pixels[position] = self._blocks[owner][offset]
        return pixels

    def close(self) -> None:
        """Lets go of the blocks, shared memory included."""
        self._blocks.clear()


ChunkDecoder = Callable[[Iterable[list[str]]], Iterator[tuple[list[str], DecodedImages]]]
"""Decodes chunks of files in order, working ahead of their use by a bounded number of chunks."""


@dataclass(frozen=True)
class FileImages:
    """Images of a domain too large to hold: every request decodes its files.

    Attributes:
        paths: files of the cleaned training list.
        decode: how chunks of files are decoded.
        chunk_size: files that `fetch` decodes at a time.
    """

    paths: Sequence[str]
    decode: ChunkDecoder
    chunk_size: int

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """One chunk of files a batch."""
        for paths, decoded in self.decode(self.select(indices) for indices in plan):
            yield writable_pixels(paths, decoded)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Decodes chunk by chunk; only the result is held as a whole."""
        parts = np.split(indices, range(self.chunk_size, len(indices), self.chunk_size))
        results = self.decode(self.select(part) for part in parts)
        return np.concatenate([writable_pixels(paths, decoded) for paths, decoded in results])

    def select(self, indices: np.ndarray) -> list[str]:
        """Files of the images at [N] indices."""
        return [self.paths[int(index)] for index in indices]


class LocalStream:
    """The stream of a run in one process; needs no ray.

    Args:
        benchmark: domains in lifelong order.
        config: the section `data`.
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
        quarantine_path: the run's list of unreadable images.
        capacity_bytes: memory of which one domain may take `data.object_store_share`; by default
            30% of the machine's, which is what Ray would give to its object store.
        decode: files to pixels; a sweep's trials take what is decoded already.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        config: DataConfig,
        height: int,
        width: int,
        quarantine_path: Path,
        capacity_bytes: float | None = None,
        decode: Decoder = decode_many,
    ) -> None:
        self._benchmark = benchmark
        self._config = config
        self._height, self._width = height, width
        self._files_to_pixels = decode
        self._quarantine = Quarantine(quarantine_path)
        capacity = 0.3 * _physical_memory_bytes() if capacity_bytes is None else capacity_bytes
        self._budget_bytes = config.object_store_share * capacity
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._decoded: dict[int, Future[_DecodedDomain]] = {}
        self._open: dict[int, BlockImages] = {}

    def open(self, index: int) -> OpenedDomain:
        """Waits for the decoding thread, which goes on with the next domain."""
        for other in self._decoded.keys() - {index, index + 1}:
            self.release(other)
        current = self._start(index)
        if index + 1 < len(self._benchmark.steps):
            self._start(index + 1)
        decoded = current.result()
        domain = self._benchmark.steps[index]
        self._quarantine.add(bad_training_images(domain, decoded.errors))
        cleaned, kept = clean_domain(domain, decoded.errors, self._config.max_bad_share)
        if decoded.blocks is None:
            paths = [record.image_path for record in cleaned.train]
            images = FileImages(paths, self._decode_ahead, self._config.evaluation_batch_size)
        else:
            images = self._open[index] = BlockImages(decoded.blocks, kept)
        return OpenedDomain(cleaned, images, len(decoded.errors))

    def release(self, index: int) -> None:
        """Drops the blocks."""
        if index in self._decoded:
            self._decoded.pop(index).cancel()
        if index in self._open:
            self._open.pop(index).close()

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes one chunk ahead, in a thread."""
        return stream_test_images(
            self._benchmark,
            records,
            self._config.evaluation_batch_size,
            self._decode_ahead,
            self._quarantine.add,
        )

    def close(self) -> None:
        """Stops the decoding thread after the block it works on."""
        self._stopped.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for index in list(self._decoded):
            self.release(index)

    def _decode_ahead(
        self, chunks: Iterable[list[str]]
    ) -> Iterator[tuple[list[str], DecodedImages]]:
        return ahead(
            ((paths, self._files_to_pixels(paths, self._height, self._width)) for paths in chunks),
            depth=1,
        )

    def _start(self, index: int) -> Future[_DecodedDomain]:
        if index not in self._decoded:
            self._decoded[index] = self._thread.submit(self._decode, index)
        return self._decoded[index]

    def _decode(self, index: int) -> _DecodedDomain:
        records = self._benchmark.steps[index].train
        held = decoded_bytes(len(records), self._height, self._width) <= self._budget_bytes
        blocks: list[np.ndarray] = []
        errors: dict[int, str] = {}
        start = 0
        for paths in path_chunks(records, IMAGES_PER_BLOCK):
            if self._stopped.is_set():
                break
            decoded = self._files_to_pixels(paths, self._height, self._width)
            errors.update({start + at: reason for at, reason in decoded.errors.items()})
            if held:
                blocks.append(decoded.pixels)
            start += len(paths)
        return _DecodedDomain(blocks if held else None, errors)


@dataclass(frozen=True)
class _DecodedDomain:
    """Blocks of a domain (None if it is too large to hold) and its unreadable positions."""

    blocks: list[np.ndarray] | None
    errors: Mapping[int, str]


def clean_domain(
    domain: Domain, errors: Mapping[int, str], max_bad_share: float
) -> tuple[Domain, np.ndarray]:
    """Leaves unreadable training images out of a domain.

    Args:
        domain: as the benchmark lists it.
        errors: position in `domain.train` -> why the image is unreadable.
        max_bad_share: share of the training images that may be left out.

    Returns:
        The cleaned domain and [N] positions of its images in the uncleaned list.

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
            f"{domain.name}: {len(errors)} of {num_images} training images cannot be decoded "
            f"({len(errors) / num_images:.2%}); data.max_bad_share allows {max_bad_share:.2%}. "
            f"First: {first}. Repair these files (all are in quarantine.jsonl), or raise "
            f"data.max_bad_share."
        )
    kept = np.delete(np.arange(num_images), sorted(errors))
    return domain.without(errors.keys()), kept


def bad_training_images(domain: Domain, errors: Mapping[int, str]) -> list[BadImage]:
    """Quarantine entries of unreadable positions in a domain's training list."""
    return [
        BadImage(domain.train[position].image_path, errors[position], domain.name, "train")
        for position in sorted(errors)
    ]


def bad_test_images(
    benchmark: Benchmark, paths: Sequence[str], errors: Mapping[int, str]
) -> list[BadImage]:
    """Quarantine entries of unreadable positions in a list of files of any domain and split."""
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
        BadImage(paths[position], errors[position], *places.get(paths[position], ("", "")))
        for position in sorted(errors)
    ]


def stream_test_images(
    benchmark: Benchmark,
    records: Sequence[Record],
    chunk_size: int,
    decode: ChunkDecoder,
    quarantine: Callable[[list[BadImage]], None],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`DomainStream.test_images`, whatever decodes the files and lists the unreadable ones."""
    start = 0
    for paths, decoded in decode(path_chunks(records, chunk_size)):
        if decoded.errors:
            quarantine(bad_test_images(benchmark, paths, decoded.errors))
        kept = np.delete(np.arange(len(paths)), sorted(decoded.errors))
        if len(kept):
            yield start + kept, decoded.pixels[kept]
        start += len(paths)


def path_chunks(records: Sequence[Record], chunk_size: int) -> Iterator[list[str]]:
    """The records' files in order, `chunk_size` at a time."""
    for start in range(0, len(records), chunk_size):
        yield [record.image_path for record in records[start : start + chunk_size]]


def writable_pixels(paths: Sequence[str], decoded: DecodedImages) -> np.ndarray:
    """The caller's own pixels of files that were readable when their domain was opened.

    Raises:
        OSError: one of them no longer is.
    """
    for position, reason in sorted(decoded.errors.items()):
        raise OSError(
            f"{paths[position]} was readable when its domain was opened and no longer is "
            f"({reason}). Is the data folder being changed during the run?"
        )
    return np.require(decoded.pixels, requirements=["C", "W"])


def decoded_bytes(num_images: int, height: int, width: int) -> int:
    """Memory of decoded images, in bytes."""
    return num_images * height * width * 3


def _physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
