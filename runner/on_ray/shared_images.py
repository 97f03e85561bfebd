"""Decoded images shared by runs in several processes through the Ray object store.

The runs are the trials of a sweep or the cells of an ablation table; both are called trials here.
The driver decodes the images before the first trial and owns the blocks, so that they live as long
as the driver; an object that a trial puts into the store is deleted with that trial. Every node
holds one copy, which its trials read without copying. Plain tasks decode the images instead of
Ray Data: all blocks are kept, so no backpressure is needed, and starting a pipeline takes as long
as decoding a small benchmark.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from runner.config.run_config import RunConfig
from runner.on_ray.image_stream import smallest_store_bytes
from runner.streaming.decoded_cache import (
    SharedBlock,
    SharedDecoder,
    decode_block,
    evaluation_files,
    select_within_budget,
    training_files,
)
from runner.streaming.image_stream import IMAGES_PER_BLOCK, decoded_bytes
from tasks.schema import Benchmark

LOG = logging.getLogger(__name__)

SIZE_KEYS = frozenset({"backbone.image_height", "backbone.image_width"})
"""If one of these is searched, trials decode to different sizes and nothing is shared."""

FETCH_TIMEOUT_S = 120.0
"""Longest wait for the blocks to reach a trial's node. Blocks lost with a node are decoded again by
a task; without a timeout it could wait for the CPU that the trial itself holds."""


@dataclass(frozen=True)
class SharedImages:
    """Shared images, passed to the trials for `run_experiment`.

    The driver must keep this object while the trials run, because it owns the blocks.

    Attributes:
        blocks: references to `SharedBlock`s; empty if nothing is shared.
        height: height of the decoded images in pixels.
        width: width of the decoded images in pixels.
        num_shared: number of shared images.
        num_images: number of different images of the benchmark.
        why: reason why the other images are not shared, or "".
    """

    blocks: tuple[ray.ObjectRef, ...] = ()
    height: int = 0
    width: int = 0
    num_shared: int = 0
    num_images: int = 0
    why: str = ""

    def __str__(self) -> str:
        text = f"{self.num_shared} of {self.num_images} images are decoded once for all runs"
        return f"{text}; the runs decode the others themselves: {self.why}" if self.why else text

    def decoder(self) -> SharedDecoder | None:
        """Maps the blocks into the memory of this process.

        Returns None without blocks, or if they are unavailable; the trial then decodes the images.
        """
        if not self.blocks:
            return None
        try:
            blocks: list[SharedBlock] = ray.get(list(self.blocks), timeout=FETCH_TIMEOUT_S)
        except RayError as error:
            LOG.warning("shared images are unavailable, decoding them in the trial: %s", error)
            return None
        return SharedDecoder(blocks, self.height, self.width)


def share_images(
    benchmarks: Sequence[Benchmark], config: RunConfig, searched: Iterable[str] = ()
) -> SharedImages:
    """Decodes the images of benchmarks into the object store and waits until all are stored.

    Test and validation images take at most `data.evaluation_cache_share` of the smallest node's
    object store, training images at most `data.object_store_share`.

    Args:
        benchmarks: benchmarks of the trials. Trials decode other files themselves.
        config: configuration of a trial, without the sampled values.
        searched: configuration paths whose values differ between trials.
    """
    data, height, width = config.data, config.backbone.image_height, config.backbone.image_width
    tests = evaluation_files(domain for each in benchmarks for domain in each.domains)
    known = {path for group in tests for path in group}
    train = training_files((domain for each in benchmarks for domain in each.seen), known)
    num_images = sum(map(len, (*tests, *train)))
    if sizes := SIZE_KEYS.intersection(searched):
        return SharedImages((), height, width, 0, num_images, f"{min(sizes)} is searched")
    capacity = smallest_store_bytes() / decoded_bytes(1, height, width)
    chosen = [
        *select_within_budget(tests, int(data.evaluation_cache_share * capacity)),
        *select_within_budget(train, int(data.object_store_share * capacity)),
    ]
    num_shared = sum(map(len, chosen))
    limits = "data.evaluation_cache_share or data.object_store_share"
    why = "" if num_shared == num_images else f"all together exceed {limits}"
    blocks = _decode(chosen, height, width, data.decode_cpus)
    return SharedImages(tuple(blocks), height, width, num_shared, num_images, why)


def _decode(
    portions: Sequence[Sequence[str]], height: int, width: int, task_cpus: float
) -> list[ray.ObjectRef]:
    """Returns references to decoded blocks; no block spans two portions."""
    chunks = [
        portion[start : start + IMAGES_PER_BLOCK]
        for portion in portions
        for start in range(0, len(portion), IMAGES_PER_BLOCK)
    ]
    remote = ray.remote(num_cpus=task_cpus, scheduling_strategy="SPREAD")
    task: Any = remote(decode_block)
    # One decoding process for each CPU.
    num_tasks = max(1, int(ray.cluster_resources().get("CPU", 1)))
    blocks: list[ray.ObjectRef] = []
    running = deque[ray.ObjectRef]()
    for chunk in chunks:
        if len(running) == num_tasks:
            ray.wait([running.popleft()], fetch_local=False)
        blocks.append(task.remote(chunk, height, width))
        running.append(blocks[-1])
    if blocks:
        ray.wait(blocks, num_returns=len(blocks), fetch_local=False)
    return blocks
