"""The stream of a run on a Ray cluster: `StreamActor` decodes, every worker has a `RayStream`.

A domain is decoded once, by Ray Data, into the object store; workers gather their batches from
shared memory. Test images take plain tasks instead: they are small, many and different in every
pass, and each Ray Data pipeline costs about three seconds before its first row.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runner.config.sections import DataConfig
from runner.on_ray.stream_actor import (
    DecodedBlocks,
    DecodeOptions,
    DomainFiles,
    StreamActor,
    block_pixels,
    decode_rows,
)
from runner.streaming.decoded_cache import SharedDecoder
from runner.streaming.image_decoding import DecodedImages, decode_many
from runner.streaming.image_stream import (
    IMAGES_PER_BLOCK,
    BlockImages,
    ChunkDecoder,
    FileImages,
    OpenedDomain,
    bad_training_images,
    clean_domain,
    decoded_bytes,
    path_chunks,
    stream_test_images,
)
from tasks.schema import Benchmark, Record

CHUNKS_IN_FLIGHT = 8
"""Chunks of test images decoding or waiting at a time, for each worker: 100 MB at 256x128."""

ACTOR_THREADS = 32
"""Calls that the actor answers at the same time; workers past them wait for their turn."""


@contextlib.contextmanager
def serve_stream(
    run_name: str,
    benchmark: Benchmark,
    config: DataConfig,
    height: int,
    width: int,
    quarantine_path: Path,
    first_index: int = 0,
    shared: SharedDecoder | None = None,
) -> Iterator[None]:
    """The run's stream actor lives, and with it every decoded block, while this context is open.

    Decoding of the first domain begins at once, while Train starts its workers. The actor stays on
    the caller's node, where the run's storage is, and comes back (empty) if its process dies.

    Args:
        run_name: names the actor; unique among the runs of this driver.
        benchmark: domains in lifelong order.
        config: the section `data`.
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
        quarantine_path: the run's list of unreadable images.
        first_index: the seen domain that a resumed run goes on with.
        shared: files that need not be decoded again; the actor leaves them alone.

    Raises:
        ValueError: this driver has a stream of that name already.
    """
    here = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote(StreamActor)
    options = _decode_options(config, height, width)
    actor = remote.options(
        name=_actor_name(run_name),
        num_cpus=0,
        max_concurrency=ACTOR_THREADS,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
    ).remote(options, str(quarantine_path.absolute()))
    try:
        if first := _domain_files(benchmark, first_index, config, options, shared):
            ray.get(actor.prefetch.remote(first))
        yield
    finally:
        ray.kill(actor)


class RayStream:
    """One worker's stream; the driver is inside `serve_stream`.

    Args:
        run_name: that of `serve_stream`.
        benchmark: the same.
        config: the same.
        height: the same.
        width: the same.
        shared: the same.
    """

    def __init__(
        self,
        run_name: str,
        benchmark: Benchmark,
        config: DataConfig,
        height: int,
        width: int,
        shared: SharedDecoder | None = None,
    ) -> None:
        self._actor: Any = ray.get_actor(_actor_name(run_name))
        self._benchmark = benchmark
        self._config = config
        self._options = _decode_options(config, height, width)
        self._shared = shared
        self._decode = _task_decoder(self._options, shared)
        self._open: dict[int, BlockImages] = {}

    def open(self, index: int) -> OpenedDomain:
        """Waits for the actor; the blocks are views of shared memory, one copy a node."""
        for other in self._open.keys() - {index}:
            self._close(other)
        this, following = (
            _domain_files(self._benchmark, at, self._config, self._options, self._shared)
            for at in (index, index + 1)
        )
        if this is None:
            return self._open_shared(index, following)
        decoded: DecodedBlocks = ray.get(self._actor.open.remote(this, following))
        domain = self._benchmark.steps[index]
        cleaned, kept = clean_domain(domain, decoded.errors, self._config.max_bad_share)
        if decoded.blocks is None:
            paths = tuple(record.image_path for record in cleaned.train)
            files = FileImages(paths, self._decode, self._config.evaluation_batch_size)
            images = StreamedImages(files, self._options)
        else:
            tables = ray.get(list(decoded.blocks))
            images = BlockImages([block_pixels(table) for table in tables], kept)
            self._open[index] = images
        return OpenedDomain(cleaned, images, len(decoded.errors))

    def _open_shared(self, index: int, following: DomainFiles | None) -> OpenedDomain:
        """A domain of shared files alone; the actor decodes the next one if that is not."""
        if following:
            ray.get(self._actor.prefetch.remote(following))
        assert self._shared is not None, "only the actor has what is not shared"
        domain, options = self._benchmark.steps[index], self._options
        blocks: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for number, paths in enumerate(path_chunks(domain.train, IMAGES_PER_BLOCK)):
            decoded = self._shared(paths, options.height, options.width)
            start = number * IMAGES_PER_BLOCK
            errors.update({start + at: reason for at, reason in decoded.errors.items()})
            blocks.append(decoded.pixels)
        ray.get(self._actor.quarantine.remote(bad_training_images(domain, errors)))
        cleaned, kept = clean_domain(domain, errors, self._config.max_bad_share)
        images = self._open[index] = BlockImages(blocks, kept)
        return OpenedDomain(cleaned, images, len(errors))

    def release(self, index: int) -> None:
        """Lets go of the blocks here and in the actor."""
        self._close(index)
        ray.get(self._actor.release.remote(self._benchmark.steps[index].name))

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes by plain tasks, a bounded number of chunks ahead."""
        return stream_test_images(
            self._benchmark,
            records,
            self._config.evaluation_batch_size,
            self._decode,
            lambda images: ray.get(self._actor.quarantine.remote(images)),
        )

    def close(self) -> None:
        """Lets go of the blocks here; the actor goes on."""
        for index in list(self._open):
            self._close(index)

    def _close(self, index: int) -> None:
        if index in self._open:
            self._open.pop(index).close()


@dataclass(frozen=True)
class StreamedImages:
    """Training images of a domain too large for the object store: decoded as they are read.

    Attributes:
        files: the images by chunks of files; reads what is asked for once.
        options: size of the images, and of the decoding tasks.
    """

    files: FileImages
    options: DecodeOptions

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """One Ray Data pipeline for the whole plan."""
        if not plan.size:
            return
        batch_size = plan.shape[1]
        # Whole batches in a task: none is glued together from two blocks.
        rows_per_task = batch_size * max(1, self.options.images_per_task // batch_size)
        indices = plan.reshape(-1)
        rows = pa.table({"index": indices, "path": self.files.select(indices)})
        tables = [rows.slice(at, rows_per_task) for at in range(0, len(rows), rows_per_task)]
        dataset = decode_rows(tables, self.options, keep_pixels=True, strict=True)
        for batch in dataset.iter_batches(batch_size=batch_size, batch_format="numpy"):
            yield np.require(batch["pixels"], requirements=["C", "W"])

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Decodes by plain tasks, a bounded number of chunks ahead."""
        return self.files.fetch(indices)


def _task_decoder(options: DecodeOptions, shared: SharedDecoder | None) -> ChunkDecoder:
    # SPREAD: on whatever node has a free CPU, and never inside a worker's own placement group,
    # whose CPUs that worker holds.
    remote = ray.remote(num_cpus=options.task_cpus, scheduling_strategy="SPREAD")
    task: Any = remote(decode_many)

    def decode(chunks: Iterable[list[str]]) -> Iterator[tuple[list[str], DecodedImages]]:
        size = options.height, options.width
        pending: deque[tuple[list[str], ray.ObjectRef | DecodedImages]] = deque()
        for paths in chunks:
            if shared is not None and shared.serves(paths, *size):
                pending.append((paths, shared(paths, *size)))
            else:
                pending.append((paths, task.remote(paths, *size)))
            if len(pending) == CHUNKS_IN_FLIGHT:
                yield _result(pending)
        while pending:
            yield _result(pending)

    return decode


def _result(
    pending: deque[tuple[list[str], ray.ObjectRef | DecodedImages]],
) -> tuple[list[str], DecodedImages]:
    paths, decoded = pending.popleft()
    return paths, decoded if isinstance(decoded, DecodedImages) else ray.get(decoded)


def _domain_files(
    benchmark: Benchmark,
    index: int,
    config: DataConfig,
    options: DecodeOptions,
    shared: SharedDecoder | None,
) -> DomainFiles | None:
    """What the actor must know of a seen domain; None past the last and for a shared one."""
    if index >= len(benchmark.steps):
        return None
    domain = benchmark.steps[index]
    paths = tuple(record.image_path for record in domain.train)
    if shared and shared.serves(paths, options.height, options.width):
        return None
    size_bytes = decoded_bytes(len(paths), options.height, options.width)
    held = size_bytes <= config.object_store_share * smallest_store_bytes()
    return DomainFiles(domain.name, paths, held)


def _decode_options(config: DataConfig, height: int, width: int) -> DecodeOptions:
    # As many decoders as CPUs: `decode_cpus` says how little of a CPU a decoder may be content
    # with beside training; more processes than CPUs would only cost memory.
    num_tasks = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return DecodeOptions(height, width, config.decode_cpus, IMAGES_PER_BLOCK, num_tasks)


def smallest_store_bytes() -> float:
    """Object store of the node that has least of it, in bytes.

    Every node that trains holds a whole copy of what is decoded, so that the smallest store is the
    limit and not the sum of all.
    """
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return min(
        resources.get("object_store_memory", 0.0) for resources in nodes if resources.get("CPU")
    )


def _actor_name(run_name: str) -> str:
    return f"stream-{run_name}"
