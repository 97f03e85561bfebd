"""Image streams: training images domain by domain, test images in bounded memory.

The training loop depends only on `DomainStream`. `LocalStream` implements it in one process and
`runner.on_ray.image_stream.RayStream` on a cluster. Both decode with
`runner.streaming.image_decoding` and gather with `BlockImages`, so the same plan yields bit-equal
batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from runner.config.sections import DataConfig
from runner.streaming.decoded_cache import (
    EvaluationCache,
    decode_block,
    evaluation_files,
    select_within_budget,
)
from runner.streaming.image_decoding import DecodedImages, Decoder, decode_many
from runner.streaming.memory import available_memory_bytes, physical_memory_bytes
from runner.streaming.prefetch import prefetch
from runner.streaming.unreadable_images import (
    UnreadableImage,
    UnreadableImages,
    clean_domain,
    unreadable_images,
    unreadable_training_images,
)
from tasks.schema import Benchmark, Domain, Record

IMAGES_PER_BLOCK = 256
"""Images that are decoded and stored together: 25 MB at 256x128."""


class ImageSource(Protocol):
    """Training images of an opened domain, indexed without the unreadable ones."""

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the pixels of each batch of a plan.

        Args:
            plan: [iterations, B] image indices: this worker's share of an epoch or a stage.

        Yields:
            uint8 [B, H, W, 3]; a writable copy.
        """
        ...

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Returns the pixels of [N] images: uint8 [N, H, W, 3]; a writable copy."""
        ...


@dataclass(frozen=True)
class OpenedDomain:
    """A seen domain that is ready for training.

    Attributes:
        domain: the domain without unreadable training images; person ids are contiguous again.
        images: the training images, in the order of `domain.train`.
        num_unreadable: number of unreadable training images that were removed.
    """

    domain: Domain
    images: ImageSource
    num_unreadable: int


class DomainStream(Protocol):
    """Interface through which one worker reads images."""

    def open(self, index: int) -> OpenedDomain:
        """Waits until the training images of seen domain `index` are ready.

        Starts decoding the next domain in the background and releases all others, so at most two
        domains are held. Unreadable images are listed in the run's quarantine.jsonl.

        Raises:
            ValueError: more than `data.max_bad_share` of the training images are unreadable.
        """
        ...

    def release(self, index: int) -> None:
        """Frees the memory of a domain; its image source must not be used afterwards."""
        ...

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes images in order, prefetching a bounded number of them.

        Images of test and validation splits are kept for the next call, within the budget
        `data.evaluation_cache_share`.

        Args:
            records: this worker's share of test or validation splits of any domains, or exemplars
                of earlier domains.

        Yields:
            [n] positions in `records` and their pixels, uint8 [n, H, W, 3], writable, with
            1 <= n <= data.evaluation_batch_size. Unreadable images are skipped and listed in the
            run's quarantine.jsonl.
        """
        ...

    def close(self) -> None:
        """Stops background work; the stream must not be used afterwards."""
        ...


class BlockImages:
    """Decoded images of a domain in blocks, which may be read-only shared memory.

    Args:
        blocks: uint8 [n_i, H, W, 3] each; concatenated, all training images in order.
        kept: [N] positions of the readable images among all training images.
    """

    def __init__(self, blocks: Sequence[np.ndarray], kept: np.ndarray) -> None:
        self._blocks = list(blocks)
        self._starts = np.cumsum([0, *(len(block) for block in blocks)])
        self._kept = kept

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """Gathers one batch at a time."""
        for indices in plan:
            yield self.fetch(indices)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Copies images from their blocks."""
        if not self._blocks:
            raise RuntimeError("the domain was released; open it again to read its images")
        rows = self._kept[indices]
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = rows - self._starts[blocks]
        pixels = np.empty((len(rows), *self._blocks[0].shape[1:]), np.uint8)
        pairs = zip(blocks.tolist(), offsets.tolist(), strict=True)
        for position, (block, offset) in enumerate(pairs):
            pixels[position] = self._blocks[block][offset]
        return pixels

    def close(self) -> None:
        """Releases the blocks, including shared memory."""
        self._blocks.clear()


ChunkDecoder = Callable[[Iterable[list[str]]], Iterator[tuple[list[str], DecodedImages]]]
"""Decodes chunks of files in order, prefetching a bounded number of chunks."""


@dataclass(frozen=True)
class FileImages:
    """Images of a domain that does not fit in memory; they are decoded at each access.

    Attributes:
        paths: files of the readable training images.
        decode: decodes chunks of files.
        chunk_size: number of files that `fetch` decodes at a time.
    """

    paths: Sequence[str]
    decode: ChunkDecoder
    chunk_size: int

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """Decodes one chunk of files per batch."""
        for paths, decoded in self.decode(self.select(indices) for indices in plan):
            yield writable_pixels(paths, decoded)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Decodes chunk by chunk, so that only the result is held in full."""
        parts = np.split(indices, range(self.chunk_size, len(indices), self.chunk_size))
        results = self.decode(self.select(part) for part in parts)
        return np.concatenate([writable_pixels(paths, decoded) for paths, decoded in results])

    def select(self, indices: np.ndarray) -> list[str]:
        """Returns the files of [N] images."""
        return [self.paths[int(index)] for index in indices]


class LocalStream:
    """Image stream of a run in one process, without Ray.

    Args:
        benchmark: domains in lifelong order.
        config: the section `data`.
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
        unreadable_file: file that lists the unreadable images of the run.
        capacity_bytes: memory of which one domain may use the share `data.object_store_share`. The
            default is 30% of physical memory, like Ray's default object store.
        decode: decodes files; the trials of a sweep pass a decoder that uses shared images.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        config: DataConfig,
        height: int,
        width: int,
        unreadable_file: Path,
        capacity_bytes: float | None = None,
        decode: Decoder = decode_many,
    ) -> None:
        self._benchmark = benchmark
        self._config = config
        self._height, self._width = height, width
        self._decode_files = decode
        self._unreadable = UnreadableImages(unreadable_file)
        capacity = 0.3 * physical_memory_bytes() if capacity_bytes is None else capacity_bytes
        self._budget_bytes = config.object_store_share * capacity
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._decoded: dict[int, Future[_DecodedDomain]] = {}
        self._open: dict[int, BlockImages] = {}
        self._kept: EvaluationCache | None = None

    def open(self, index: int) -> OpenedDomain:
        """Waits for the decoding thread, which then decodes the next domain."""
        for other in self._decoded.keys() - {index, index + 1}:
            self.release(other)
        current = self._start(index)
        if index + 1 < len(self._benchmark.steps):
            self._start(index + 1)
        decoded = current.result()
        domain = self._benchmark.steps[index]
        self._unreadable.add(unreadable_training_images(domain, decoded.errors))
        cleaned, kept = clean_domain(domain, decoded.errors, self._config.max_bad_share)
        if decoded.blocks is None:
            paths = [record.image_path for record in cleaned.train]
            images = FileImages(paths, self._prefetch_chunks, self._config.evaluation_batch_size)
        else:
            images = self._open[index] = BlockImages(decoded.blocks, kept)
        return OpenedDomain(cleaned, images, len(decoded.errors))

    def release(self, index: int) -> None:
        """Releases the blocks."""
        if index in self._decoded:
            self._decoded.pop(index).cancel()
        if index in self._open:
            self._open.pop(index).close()

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Prefetches one chunk in a thread."""
        if self._kept is None:
            budget_bytes = self._config.evaluation_cache_share * available_memory_bytes()
            self._kept = evaluation_cache(self._benchmark, budget_bytes, self._height, self._width)
        return stream_test_images(
            self._benchmark,
            records,
            self._config.evaluation_batch_size,
            self._prefetch_test_chunks,
            self._unreadable.add,
        )

    def close(self) -> None:
        """Stops the decoding thread after the current block."""
        self._stopped.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for index in list(self._decoded):
            self.release(index)
        if self._kept is not None:
            self._kept.clear()

    def _prefetch_test_chunks(
        self, chunks: Iterable[list[str]]
    ) -> Iterator[tuple[list[str], DecodedImages]]:
        return prefetch(((paths, self._decode_test(paths)) for paths in chunks), depth=1)

    def _decode_test(self, paths: list[str]) -> DecodedImages:
        assert self._kept is not None
        size = self._height, self._width
        if self._kept.contains(paths, *size):
            return self._kept(paths, *size)
        block = decode_block(paths, *size, self._decode_files)
        self._kept.keep(block)
        return block.images

    def _prefetch_chunks(
        self, chunks: Iterable[list[str]]
    ) -> Iterator[tuple[list[str], DecodedImages]]:
        return prefetch(
            ((paths, self._decode_files(paths, self._height, self._width)) for paths in chunks),
            depth=1,
        )

    def _start(self, index: int) -> Future[_DecodedDomain]:
        if index not in self._decoded:
            self._decoded[index] = self._thread.submit(self._decode_domain, index)
        return self._decoded[index]

    def _decode_domain(self, index: int) -> _DecodedDomain:
        records = self._benchmark.steps[index].train
        fits = decoded_bytes(len(records), self._height, self._width) <= self._budget_bytes
        blocks: list[np.ndarray] = []
        errors: dict[int, str] = {}
        start = 0
        for paths in path_chunks(records, IMAGES_PER_BLOCK):
            if self._stopped.is_set():
                break
            decoded = self._decode_files(paths, self._height, self._width)
            errors.update({start + at: reason for at, reason in decoded.errors.items()})
            if fits:
                blocks.append(decoded.pixels)
            start += len(paths)
        return _DecodedDomain(blocks if fits else None, errors)


@dataclass(frozen=True)
class _DecodedDomain:
    """Blocks of a domain, None if they exceed the budget, and errors by position."""

    blocks: list[np.ndarray] | None
    errors: Mapping[int, str]


def stream_test_images(
    benchmark: Benchmark,
    records: Sequence[Record],
    chunk_size: int,
    decode: ChunkDecoder,
    report: Callable[[list[UnreadableImage]], None],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Implements `DomainStream.test_images` for any decoder.

    Args:
        benchmark: benchmark that contains the images.
        records: images to decode.
        chunk_size: maximum number of images per chunk.
        decode: decodes chunks of files.
        report: receives unreadable images.
    """
    start = 0
    for paths, decoded in decode(path_chunks(records, chunk_size)):
        if decoded.errors:
            report(unreadable_images(benchmark, paths, decoded.errors))
        kept = np.delete(np.arange(len(paths)), sorted(decoded.errors))
        if len(kept):
            yield start + kept, decoded.pixels[kept]
        start += len(paths)


def evaluation_cache(
    benchmark: Benchmark, budget_bytes: float, height: int, width: int
) -> EvaluationCache:
    """Creates an empty cache for the most useful splits that fit a number of bytes together."""
    num_images = int(budget_bytes / decoded_bytes(1, height, width))
    groups = evaluation_files(benchmark.domains) if num_images else []
    chosen = select_within_budget(groups, num_images)
    return EvaluationCache((path for group in chosen for path in group), height, width)


def path_chunks(records: Sequence[Record], chunk_size: int) -> Iterator[list[str]]:
    """Yields the files of the records in order, `chunk_size` at a time."""
    for start in range(0, len(records), chunk_size):
        yield [record.image_path for record in records[start : start + chunk_size]]


def writable_pixels(paths: Sequence[str], decoded: DecodedImages) -> np.ndarray:
    """Returns writable pixels of files that were readable when their domain was opened.

    Raises:
        OSError: a file is no longer readable.
    """
    for position, reason in sorted(decoded.errors.items()):
        raise OSError(
            f"{paths[position]}: expected a readable image, as when its domain was opened, got "
            f"{reason}; do not change the data folder during a run"
        )
    return np.require(decoded.pixels, requirements=["C", "W"])


def decoded_bytes(num_images: int, height: int, width: int) -> int:
    """Returns the memory of decoded images in bytes."""
    return num_images * height * width * 3
