"""Plain decoding loop that `doctor` is compared with.

This module imports little, because the processes of `loops_s` load it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.loading.image_files import open_rgb

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


def loop_s(paths: Sequence[Path]) -> float:
    """Times the decoding of all files in a simple loop, in seconds."""
    start_s = time.perf_counter()
    for path in paths:
        open_rgb(path)
    return time.perf_counter() - start_s


def loops_s(paths: Sequence[Path], num_loops: int) -> float:
    """Runs loops concurrently, one per process; returns the time of the slowest in seconds.

    Raises:
        RuntimeError: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(num_loops), context.SimpleQueue()
    processes = [
        context.Process(target=_synchronized_loop, args=(paths, ready, done))
        for _ in range(num_loops)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a loop process failed; see the error above")
    return max(done.get() for _ in processes)


def _synchronized_loop(paths: Sequence[Path], ready: Barrier, done: SimpleQueue[float]) -> None:
    ready.wait(timeout=120)
    done.put(loop_s(paths))
