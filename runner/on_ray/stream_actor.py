"""Actor that decodes the domains of a run with Ray Data and owns the decoded blocks.

Objects are lost when their owner process dies, so a Train worker must not own the blocks. This
module does not import torch, because the decoding processes load it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from runner.streaming.image_decoding import decode_many
from runner.streaming.unreadable_images import UnreadableImage, UnreadableImages


@dataclass(frozen=True)
class DomainFiles:
    """Training files of a seen domain.

    Attributes:
        name: name of the domain, unique in the benchmark.
        paths: files of the training images, in order.
        keep_pixels: whether the decoded images fit the budget; otherwise they are only checked.
    """

    name: str
    paths: Sequence[str]
    keep_pixels: bool


@dataclass(frozen=True)
class DecodedBlocks:
    """References to a decoded domain.

    Attributes:
        blocks: references to Arrow tables with a column `pixels`, uint8 [n_i, H, W, 3];
            concatenated, all training images in order. None if the domain exceeds the budget.
        errors: error message by position of an unreadable training image.
    """

    blocks: Sequence[Any] | None
    errors: Mapping[int, str]


@dataclass(frozen=True)
class DecodeOptions:
    """Image size and task settings of decoding.

    Attributes:
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
        task_cpus: CPUs requested by one decoding task.
        images_per_task: number of files per decoding task.
        num_tasks: maximum number of concurrent tasks.
    """

    height: int
    width: int
    task_cpus: float
    images_per_task: int
    num_tasks: int


class StreamActor:
    """Decodes each seen domain once; the next domain is decoded while the current one trains.

    Callers pass the files of a domain, so a restarted actor needs only its constructor arguments.
    Ray calls the methods from several threads, because all workers may wait in `open` at the same
    time.

    Args:
        options: image size and task settings.
        unreadable_file: file that lists the unreadable images of the run.
    """

    def __init__(self, options: DecodeOptions, unreadable_file: str) -> None:
        self._options = options
        self._unreadable = UnreadableImages(Path(unreadable_file))
        self._lock = threading.Lock()
        # One thread: decoding two domains at the same time would delay the one needed first.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._decoded: dict[str, Future[DecodedBlocks]] = {}

    def prefetch(self, domain: DomainFiles) -> None:
        """Starts to decode a domain unless it is decoded already."""
        with self._lock:
            self._start(domain)

    def open(self, domain: DomainFiles, next_domain: DomainFiles | None) -> DecodedBlocks:
        """Waits for a domain, starts to decode the next one and releases all others."""
        with self._lock:
            wanted = {domain.name} | ({next_domain.name} if next_domain else set())
            for other in self._decoded.keys() - wanted:
                self._forget(other)
            current = self._start(domain)
            if next_domain:
                self._start(next_domain)
        decoded = current.result()
        self._unreadable.add(
            UnreadableImage(domain.paths[position], reason, domain.name, "train")
            for position, reason in sorted(decoded.errors.items())
        )
        return decoded

    def release(self, name: str) -> None:
        """Releases a domain; its blocks are freed when no worker holds a reference."""
        with self._lock:
            self._forget(name)

    def report_unreadable(self, images: Sequence[UnreadableImage]) -> None:
        """Adds unreadable images that a worker encountered to the list."""
        self._unreadable.add(images)

    def decoded_domains(self) -> set[str]:
        """Returns the names of the decoded domains."""
        with self._lock:
            return {name for name, future in self._decoded.items() if future.done()}

    def _start(self, domain: DomainFiles) -> Future[DecodedBlocks]:
        known = self._decoded.get(domain.name)
        # Decoding that failed, for example out of memory, is retried at the next request.
        if known is None or (known.done() and known.exception()):
            future = self._thread.submit(decode_domain, domain, self._options)
            self._decoded[domain.name] = future
        return self._decoded[domain.name]

    def _forget(self, name: str) -> None:
        if name in self._decoded:
            self._decoded.pop(name).cancel()


def decode_domain(domain: DomainFiles, options: DecodeOptions) -> DecodedBlocks:
    """Decodes a domain with one Ray Data pipeline; the calling process owns the blocks.

    The blocks remain Arrow tables: a view of their pixels takes 0.2 ms per block and no memory,
    while a conversion to arrays would copy the whole domain.
    """
    num_images = len(domain.paths)
    rows = pa.table({"index": np.arange(num_images), "path": list(domain.paths)})
    size = options.images_per_task
    tables = [rows.slice(start, size) for start in range(0, num_images, size)]
    blocks = decode_rows(
        tables, options, keep_pixels=domain.keep_pixels, strict=False
    ).to_arrow_refs()
    # num_cpus=0: these short tasks must not wait for a CPU that a training worker holds.
    find_errors = ray.remote(num_cpus=0)(_errors_of_block)
    errors: dict[int, str] = {}
    for block_errors in ray.get([find_errors.remote(block) for block in blocks]):
        errors.update(block_errors)
    return DecodedBlocks(blocks if domain.keep_pixels else None, errors)


def decode_rows(
    tables: Sequence[pa.Table], options: DecodeOptions, keep_pixels: bool, strict: bool
) -> ray.data.Dataset:
    """Builds a lazy Ray data set of decoded rows, in the order of the given rows.

    Args:
        tables: tables with columns `index` and `path`; each is processed by one task.
        options: image size and task settings.
        keep_pixels: whether the result has a column `pixels` besides `index` and `error`.
        strict: whether an unreadable image stops the pipeline with an OSError.
    """
    with quiet_ordered_data():
        # Not from_arrow: it reads each table in a task that needs a whole CPU, which may never
        # be free because workers leave only `task_cpus`.
        return ray.data.from_blocks(list(tables)).map_batches(
            functools.partial(
                _decode_rows, options=options, keep_pixels=keep_pixels, strict=strict
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=options.task_cpus,
            compute=ray.data.TaskPoolStrategy(size=min(options.num_tasks, len(tables))),
        )


@contextlib.contextmanager
def quiet_ordered_data() -> Iterator[None]:
    """Data sets created in this context preserve the order of rows and print no progress bars.

    Without `preserve_order`, the order of rows depends on the duration of the tasks.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    before = context.enable_progress_bars, options.preserve_order
    context.enable_progress_bars, options.preserve_order = False, True
    try:
        yield
    finally:
        context.enable_progress_bars, options.preserve_order = before


def block_pixels(table: pa.Table) -> np.ndarray:
    """Returns a read-only view of a decoded block in shared memory, uint8 [n, H, W, 3]."""
    column = table.column("pixels").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        (column,) = column.chunks
    tensors: Any = column
    return tensors.to_numpy(zero_copy_only=True)


def _decode_rows(
    rows: pa.Table, options: DecodeOptions, keep_pixels: bool, strict: bool
) -> dict[str, np.ndarray]:
    paths = rows.column("path").to_pylist()
    decoded = decode_many(paths, options.height, options.width)
    for position, reason in decoded.errors.items():
        if strict:
            raise OSError(f"{paths[position]}: {reason}")
    reasons = [decoded.errors.get(position, "") for position in range(len(paths))]
    columns = {"index": rows.column("index").to_numpy(), "error": np.array(reasons)}
    return columns | ({"pixels": decoded.pixels} if keep_pixels else {})


def _errors_of_block(table: pa.Table) -> dict[int, str]:
    indices = table.column("index").to_pylist()
    reasons = table.column("error").to_pylist()
    return {index: reason for index, reason in zip(indices, reasons, strict=True) if reason}
