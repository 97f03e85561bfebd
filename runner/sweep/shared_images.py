"""What the trials of a sweep share: images that are decoded once and lie in the object store.

The driver decodes before its first trial and owns the result, so it lives as long as the sweep: an
object that a trial had put there would die with that trial. Every node holds one copy, which all
its trials read without copying. Plain tasks decode, not Ray Data: nothing needs to be held back,
as all of it is kept, and a pipeline's start alone takes as long as decoding a small benchmark.
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
    files_by_priority,
    select_within_budget,
)
from runner.streaming.image_stream import IMAGES_PER_BLOCK, decoded_bytes
from tasks.schema import Benchmark

LOG = logging.getLogger(__name__)

SIZE_KEYS = frozenset({"backbone.image_height", "backbone.image_width"})
"""Where these are searched, trials would decode to other sizes than what is shared."""

FETCH_TIMEOUT_S = 120.0
"""For the blocks to reach a trial's node; what is lost with a node is decoded again by a task,
which must not wait for a CPU that the trial itself holds."""


@dataclass(frozen=True)
class SharedImages:
    """What trials are given (`tune.with_parameters`) for their `run_experiment`.

    The driver keeps it while they run.

    Attributes:
        blocks: references to each `SharedBlock`; none where nothing is shared.
        height: of the decoded images, in pixels.
        width: of the decoded images, in pixels.
        num_shared: decoded images that are shared.
        num_images: different images of the benchmark.
        why: what keeps the others from it, or "".
    """

    blocks: tuple[ray.ObjectRef, ...]
    height: int
    width: int
    num_shared: int
    num_images: int
    why: str

    def __str__(self) -> str:
        said = f"{self.num_shared} of {self.num_images} images are decoded once for all trials"
        return f"{said}; trials decode the others themselves: {self.why}" if self.why else said

    def decoder(self) -> SharedDecoder | None:
        """Maps the blocks into the memory of this process.

        Sharing saves time and nothing else: a trial that cannot have the blocks decodes.
        """
        if not self.blocks:
            return None
        try:
            blocks: list[SharedBlock] = ray.get(list(self.blocks), timeout=FETCH_TIMEOUT_S)
        except RayError as error:
            LOG.warning("the shared images cannot be had; decoding them here: %s", error)
            return None
        return SharedDecoder(blocks, self.height, self.width)


def share_images(
    benchmark: Benchmark, config: RunConfig, searched: Iterable[str] = ()
) -> SharedImages:
    """Decodes a benchmark's images into the object store; returns once all are there.

    Together they take at most `data.object_store_share` of the smallest node's store.

    Args:
        benchmark: as the trials read it. Other files than its own are decoded by the trials.
        config: of a trial, without the searched values.
        searched: configuration paths whose values differ between trials.
    """
    height, width = config.backbone.image_height, config.backbone.image_width
    portions = files_by_priority(benchmark)
    num_images = sum(map(len, portions))
    if sizes := SIZE_KEYS.intersection(searched):
        return SharedImages((), height, width, 0, num_images, f"{min(sizes)} is searched")
    budget_bytes = config.data.object_store_share * smallest_store_bytes()
    chosen = select_within_budget(portions, int(budget_bytes / decoded_bytes(1, height, width)))
    num_shared = sum(map(len, chosen))
    why = "" if num_shared == num_images else "all together exceed data.object_store_share"
    blocks = _decode(chosen, height, width, config.data.decode_cpus)
    return SharedImages(tuple(blocks), height, width, num_shared, num_images, why)


def _decode(
    portions: Sequence[Sequence[str]], height: int, width: int, task_cpus: float
) -> list[ray.ObjectRef]:
    """References to decoded blocks, none of them of two portions."""
    chunks = [
        portion[start : start + IMAGES_PER_BLOCK]
        for portion in portions
        for start in range(0, len(portion), IMAGES_PER_BLOCK)
    ]
    remote = ray.remote(num_cpus=task_cpus, scheduling_strategy="SPREAD")
    task: Any = remote(decode_block)
    # As many decoders as CPUs, each in a process of its own.
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
