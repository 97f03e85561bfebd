"""Image stream on a Ray cluster: a `StreamActor` decodes, each worker reads via a `RayStream`.

Ray Data decodes each domain once into the object store, and workers gather their batches from
shared memory. Test images are decoded by plain tasks instead, because each Ray Data pipeline takes
about three seconds before its first row. Each worker keeps its share of them in the object store
from one evaluation to the next.
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
from runner.streaming.decoded_cache import (
    EvaluationCache,
    SharedBlock,
    SharedDecoder,
    decode_block,
)
from runner.streaming.image_decoding import DecodedImages
from runner.streaming.image_stream import (
    IMAGES_PER_BLOCK,
    BlockImages,
    ChunkDecoder,
    FileImages,
    OpenedDomain,
    decoded_bytes,
    evaluation_cache,
    path_chunks,
    stream_test_images,
)
from runner.streaming.unreadable_images import clean_domain, unreadable_training_images
from tasks.schema import Benchmark, Record

CHUNKS_IN_FLIGHT = 8
"""Maximum number of pending chunks of test images per worker: 100 MB at 256x128."""

ACTOR_THREADS = 32
"""Maximum number of concurrent calls to the actor; further calls wait."""


@contextlib.contextmanager
def serve_stream(
    run_name: str,
    benchmark: Benchmark,
    config: DataConfig,
    height: int,
    width: int,
    unreadable_file: Path,
    first_index: int = 0,
    shared: SharedDecoder | None = None,
) -> Iterator[None]:
    """Runs the stream actor, which owns all decoded blocks, while this context is open.

    Decoding of the first domain starts immediately, while Train starts its workers. The actor runs
    on the node of the caller, where the storage of the run is. If its process dies, it is restarted
    without its blocks.

    Args:
        run_name: name of the actor, unique among the runs of this driver.
        benchmark: domains in lifelong order.
        config: the section `data`.
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
        unreadable_file: file that lists the unreadable images of the run.
        first_index: index of the first seen domain to train.
        shared: decoder with images that are already decoded; the actor does not decode them.

    Raises:
        ValueError: this driver already has a stream with this name.
    """
    node_id = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote(StreamActor)
    options = _decode_options(config, height, width)
    actor = remote.options(
        name=_actor_name(run_name),
        num_cpus=0,
        max_concurrency=ACTOR_THREADS,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True),
    ).remote(options, str(unreadable_file.absolute()))
    try:
        if first := _domain_files(benchmark, first_index, config, options, shared):
            ray.get(actor.prefetch.remote(first))
        yield
    finally:
        ray.kill(actor)


class RayStream:
    """Image stream of one worker, connected to the stream actor of the driver.

    All arguments must equal those of `serve_stream`.
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
        self._kept: EvaluationCache | None = None

    def open(self, index: int) -> OpenedDomain:
        """Waits for the actor; the blocks are views of shared memory, one copy per node."""
        for other in self._open.keys() - {index}:
            self._close(other)
        current, following = (
            _domain_files(self._benchmark, at, self._config, self._options, self._shared)
            for at in (index, index + 1)
        )
        if current is None:
            return self._open_shared(index, following)
        decoded: DecodedBlocks = ray.get(self._actor.open.remote(current, following))
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
        """Opens a domain whose images are all shared; the actor prefetches the next domain."""
        if following:
            ray.get(self._actor.prefetch.remote(following))
        assert self._shared is not None, "only domains with shared images have no files to decode"
        domain, options = self._benchmark.steps[index], self._options
        blocks: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for number, paths in enumerate(path_chunks(domain.train, IMAGES_PER_BLOCK)):
            decoded = self._shared(paths, options.height, options.width)
            start = number * IMAGES_PER_BLOCK
            errors.update({start + at: reason for at, reason in decoded.errors.items()})
            blocks.append(decoded.pixels)
        ray.get(self._actor.report_unreadable.remote(unreadable_training_images(domain, errors)))
        cleaned, kept = clean_domain(domain, errors, self._config.max_bad_share)
        images = self._open[index] = BlockImages(blocks, kept)
        return OpenedDomain(cleaned, images, len(errors))

    def release(self, index: int) -> None:
        """Releases the blocks here and in the actor."""
        self._close(index)
        ray.get(self._actor.release.remote(self._benchmark.steps[index].name))

    def test_images(self, records: Sequence[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes with plain tasks, prefetching a bounded number of chunks.

        The images to keep stay in the object store as long as this process maps them.
        """
        if self._kept is None:
            share = self._config.evaluation_cache_share
            share = min(share, 1 - 2 * self._config.object_store_share)
            budget_bytes = share * smallest_store_bytes()
            size = self._options.height, self._options.width
            self._kept = evaluation_cache(self._benchmark, budget_bytes, *size)
        return stream_test_images(
            self._benchmark,
            records,
            self._config.evaluation_batch_size,
            _task_decoder(self._options, self._shared, self._kept),
            lambda images: ray.get(self._actor.report_unreadable.remote(images)),
        )

    def close(self) -> None:
        """Releases the blocks here; the actor keeps running."""
        for index in list(self._open):
            self._close(index)
        if self._kept is not None:
            self._kept.clear()

    def _close(self, index: int) -> None:
        if index in self._open:
            self._open.pop(index).close()


@dataclass(frozen=True)
class StreamedImages:
    """Training images of a domain that exceeds the object store; they are decoded when read.

    Attributes:
        files: the files of the images; used for single requests.
        options: image size and task settings.
    """

    files: FileImages
    options: DecodeOptions

    def batches(self, plan: np.ndarray) -> Iterator[np.ndarray]:
        """Decodes the whole plan with one Ray Data pipeline."""
        if not plan.size:
            return
        batch_size = plan.shape[1]
        # Each task decodes whole batches, so no batch must be concatenated from two blocks.
        rows_per_task = batch_size * max(1, self.options.images_per_task // batch_size)
        indices = plan.reshape(-1)
        rows = pa.table({"index": indices, "path": self.files.select(indices)})
        tables = [rows.slice(at, rows_per_task) for at in range(0, len(rows), rows_per_task)]
        dataset = decode_rows(tables, self.options, keep_pixels=True, strict=True)
        for batch in dataset.iter_batches(batch_size=batch_size, batch_format="numpy"):
            yield np.require(batch["pixels"], requirements=["C", "W"])

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Decodes with plain tasks, prefetching a bounded number of chunks."""
        return self.files.fetch(indices)


def _task_decoder(
    options: DecodeOptions, shared: SharedDecoder | None, kept: EvaluationCache | None = None
) -> ChunkDecoder:
    """Decodes chunks of files with tasks, unless they are in one of the caches.

    Args:
        options: image size and task settings.
        shared: images that are already decoded.
        kept: keeps decoded images for the next call.
    """
    # SPREAD: use any node with a free CPU, and not the placement group of the calling worker,
    # whose CPUs the worker holds.
    remote = ray.remote(num_cpus=options.task_cpus, scheduling_strategy="SPREAD")
    task: Any = remote(decode_block)
    size = options.height, options.width
    caches = [each for each in (shared, kept) if each is not None]

    def result(paths: list[str], source: SharedDecoder | ray.ObjectRef) -> DecodedImages:
        if isinstance(source, SharedDecoder):
            return source(paths, *size)
        block: SharedBlock = ray.get(source)
        if kept is not None:
            kept.keep(block)
        return block.images

    def decode(chunks: Iterable[list[str]]) -> Iterator[tuple[list[str], DecodedImages]]:
        pending: deque[tuple[list[str], SharedDecoder | ray.ObjectRef]] = deque()
        for paths in chunks:
            cached = next((each for each in caches if each.contains(paths, *size)), None)
            pending.append((paths, cached or task.remote(paths, *size)))
            if len(pending) == CHUNKS_IN_FLIGHT:
                paths, source = pending.popleft()
                yield paths, result(paths, source)
        for paths, source in pending:
            yield paths, result(paths, source)

    return decode


def _domain_files(
    benchmark: Benchmark,
    index: int,
    config: DataConfig,
    options: DecodeOptions,
    shared: SharedDecoder | None,
) -> DomainFiles | None:
    """Returns the files of a seen domain; None after the last one or if all images are shared."""
    if index >= len(benchmark.steps):
        return None
    domain = benchmark.steps[index]
    paths = tuple(record.image_path for record in domain.train)
    if shared and shared.contains(paths, options.height, options.width):
        return None
    size_bytes = decoded_bytes(len(paths), options.height, options.width)
    keep_pixels = size_bytes <= config.object_store_share * smallest_store_bytes()
    return DomainFiles(domain.name, paths, keep_pixels)


def _decode_options(config: DataConfig, height: int, width: int) -> DecodeOptions:
    # One task per CPU. `decode_cpus` is only the minimum that a task needs beside training; more
    # tasks than CPUs would only use more memory.
    num_tasks = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return DecodeOptions(height, width, config.decode_cpus, IMAGES_PER_BLOCK, num_tasks)


def smallest_store_bytes() -> float:
    """Returns the size of the smallest object store of all nodes, in bytes.

    Each training node holds a full copy of the decoded images, so the smallest store is the limit.
    """
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return min(
        resources.get("object_store_memory", 0.0) for resources in nodes if resources.get("CPU")
    )


def _actor_name(run_name: str) -> str:
    return f"stream-{run_name}"
