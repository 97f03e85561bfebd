"""The actor of a run that decodes its domains by Ray Data and owns the decoded blocks.

The blocks belong to the process that asked for their decoding: were that a Train worker, they
would die with it. No torch here: the decoding processes load this file.
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
from runner.streaming.unreadable_images import BadImage, Quarantine


@dataclass(frozen=True)
class DomainFiles:
    """What the actor needs to know of a seen domain.

    Attributes:
        name: of the domain, unique in the benchmark.
        paths: files of its training list, in order.
        held: whether its decoded images fit the budget; if not, they are only checked.
    """

    name: str
    paths: Sequence[str]
    held: bool


@dataclass(frozen=True)
class DecodedBlocks:
    """A decoded domain, as the actor answers it.

    Attributes:
        blocks: references to Arrow tables whose column `pixels` holds uint8 [n_i, H, W, 3] rows,
            together the training list in order; None if the domain is too large to hold.
        errors: position in the training list -> why the image could not be decoded.
    """

    blocks: Sequence[Any] | None
    errors: Mapping[int, str]


@dataclass(frozen=True)
class DecodeOptions:
    """How files become blocks.

    Attributes:
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
        task_cpus: CPUs that one decoding task asks for.
        images_per_task: files that one decoding task reads.
        num_tasks: tasks at the same time.
    """

    height: int
    width: int
    task_cpus: float
    images_per_task: int
    num_tasks: int


class StreamActor:
    """Decodes each seen domain once, the next one while the present one trains.

    Callers say which files a domain has, so that an actor whose process died and came back needs
    nothing but its constructor's few words. Ray calls the methods from several threads: every
    worker may wait in `open` at once.

    Args:
        options: size of the images, and of the decoding tasks.
        quarantine_path: the run's list of unreadable images.
    """

    def __init__(self, options: DecodeOptions, quarantine_path: str) -> None:
        self._options = options
        self._quarantine = Quarantine(Path(quarantine_path))
        self._lock = threading.Lock()
        # One thread: two domains at once would share the CPUs and make the nearer one late.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._decoded: dict[str, Future[DecodedBlocks]] = {}

    def prefetch(self, domain: DomainFiles) -> None:
        """Starts to decode a domain if it is not there yet."""
        with self._lock:
            self._start(domain)

    def open(self, domain: DomainFiles, next_domain: DomainFiles | None) -> DecodedBlocks:
        """Waits for a domain, starts the next one, and forgets every other."""
        with self._lock:
            wanted = {domain.name} | ({next_domain.name} if next_domain else set())
            for other in self._decoded.keys() - wanted:
                self._forget(other)
            current = self._start(domain)
            if next_domain:
                self._start(next_domain)
        decoded = current.result()
        self._quarantine.add(
            BadImage(domain.paths[position], reason, domain.name, "train")
            for position, reason in sorted(decoded.errors.items())
        )
        return decoded

    def release(self, name: str) -> None:
        """Forgets a domain; its blocks are freed once no worker holds them."""
        with self._lock:
            self._forget(name)

    def quarantine(self, images: Sequence[BadImage]) -> None:
        """Lists unreadable images that a worker found."""
        self._quarantine.add(images)

    def decoded_domains(self) -> set[str]:
        """Names of the domains that are ready."""
        with self._lock:
            return {name for name, future in self._decoded.items() if future.done()}

    def _start(self, domain: DomainFiles) -> Future[DecodedBlocks]:
        known = self._decoded.get(domain.name)
        # One that failed (a decoder killed for memory, say) is tried again when asked for again.
        if known is None or (known.done() and known.exception()):
            future = self._thread.submit(decode_domain, domain, self._options)
            self._decoded[domain.name] = future
        return self._decoded[domain.name]

    def _forget(self, name: str) -> None:
        if name in self._decoded:
            self._decoded.pop(name).cancel()


def decode_domain(domain: DomainFiles, options: DecodeOptions) -> DecodedBlocks:
    """Decodes a domain by one Ray Data pipeline; the calling process owns the blocks.

    The blocks stay the Arrow tables that Ray Data made: a reader's view of their pixels costs
    0.2 ms a block and no memory, while converting them to arrays would copy the whole domain.
    """
    num_images = len(domain.paths)
    rows = pa.table({"index": np.arange(num_images), "path": list(domain.paths)})
    size = options.images_per_task
    tables = [rows.slice(start, size) for start in range(0, num_images, size)]
    blocks = decode_rows(tables, options, keep_pixels=domain.held, strict=False).to_arrow_refs()
    # num_cpus=0: a look at a block where it lies must not wait for a CPU that training holds.
    find_errors = ray.remote(num_cpus=0)(_errors_of_block)
    errors: dict[int, str] = {}
    for found in ray.get([find_errors.remote(block) for block in blocks]):
        errors.update(found)
    return DecodedBlocks(blocks if domain.held else None, errors)


def decode_rows(
    tables: Sequence[pa.Table], options: DecodeOptions, keep_pixels: bool, strict: bool
) -> ray.data.Dataset:
    """A lazy data set of decoded rows in the order of the given rows.

    Args:
        tables: columns `index` and `path`; each is one task's work.
        options: size of the images, and of the tasks.
        keep_pixels: whether the rows carry a column `pixels`; they always carry `index`, `error`.
        strict: whether an unreadable image stops the pipeline.
    """
    with quiet_ordered_data():
        # Not from_arrow: it looks at every table in a task of a whole CPU, which is never free
        # where workers have left no more than a decoder's share.
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
    """Data sets made inside keep the order of their rows and leave the terminal alone.

    Without `preserve_order` the order of rows differs between runs as soon as tasks take
    different times.
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
    """Read-only view of a decoded block in shared memory, uint8 [n, H, W, 3]."""
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
