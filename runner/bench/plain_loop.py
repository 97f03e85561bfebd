"""The plain loop that the doctor is compared with; its processes load this file and little else."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


def loop_s(paths: Sequence[Path]) -> float:
    """Seconds of what one writes without thinking."""
    began = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return time.perf_counter() - began


def loops_s(paths: Sequence[Path], num_loops: int) -> float:
    """Seconds of the slowest of several such loops that begin together, a process each.

    Raises:
        RuntimeError: one of the processes failed.
    """
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(num_loops), context.SimpleQueue()
    processes = [
        context.Process(target=_loop_with_others, args=(paths, ready, done))
        for _ in range(num_loops)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a loop in a process of its own failed; see above")
    return max(done.get() for _ in processes)


def _loop_with_others(paths: Sequence[Path], ready: Barrier, done: SimpleQueue[float]) -> None:
    ready.wait(timeout=120)
    done.put(loop_s(paths))
