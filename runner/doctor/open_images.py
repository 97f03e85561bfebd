"""Parallel decoding of image files, to find unreadable ones.

Every decoding process imports this module, so it must not import torch or ray, which take seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess

from tasks.loading.image_files import UnreadableImageError, open_rgb

IMAGES_PER_CHUNK = 64
"""About 20 ms of work: long compared with a message between processes, short to interrupt."""


def open_image(path: str) -> str | None:
    """Decodes an image file completely.

    Accepts the same files as `runner.streaming.image_decoding.decode_image`, which uses the same
    function.

    Returns:
        The reason why the file cannot be decoded, or None.
    """
    try:
        open_rgb(path)
    except UnreadableImageError as error:
        return str(error)
    return None


def open_chunk(paths: Sequence[str]) -> dict[str, str]:
    """Maps the paths of unreadable files to the reasons."""
    reasons = {path: open_image(path) for path in paths}
    return {path: reason for path, reason in reasons.items() if reason is not None}


def open_images(
    paths: Sequence[str],
    on_opened: Callable[[int], None] = lambda _: None,
    *,
    num_processes: int | None = None,
    images_per_chunk: int = IMAGES_PER_CHUNK,
) -> dict[str, str]:
    """Decodes all files, in spawned processes if there is more than one chunk.

    Processes are spawned because a fork does not survive threads of the caller (torch). Ctrl-C
    ends the processes at once and silently, and raises KeyboardInterrupt in the caller.

    Args:
        paths: image files, without duplicates.
        on_opened: called with the number of files opened since the last call, including unreadable
            ones.
        num_processes: number of processes; None = one per available CPU.
        images_per_chunk: files per task of a process.

    Returns:
        Reasons by path of the unreadable files, in the order of `paths`.

    Raises:
        RuntimeError: A process died.
    """
    chunks = [
        paths[begin : begin + images_per_chunk] for begin in range(0, len(paths), images_per_chunk)
    ]
    num_useful = min(num_processes or len(os.sched_getaffinity(0)), len(chunks))
    reasons: dict[str, str] = {}
    # An interrupt in `on_opened` has to end the processes too.
    with closing(_opened_chunks(chunks, num_useful)) as done:
        for chunk_reasons, num_images in done:
            reasons |= chunk_reasons
            on_opened(num_images)
    return {path: reasons[path] for path in paths if path in reasons}


def _opened_chunks(
    chunks: Sequence[Sequence[str]], num_processes: int
) -> Generator[tuple[dict[str, str], int]]:
    """Yields the reasons and the number of files of each chunk, in order of completion."""
    if num_processes <= 1:
        for chunk in chunks:
            with warnings.catch_warnings(action="ignore"):
                reasons = open_chunk(chunk)
            yield reasons, len(chunk)
        return
    executor = ProcessPoolExecutor(
        num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialise_process,
    )
    processes: Sequence[BaseProcess] = ()
    try:
        with _blocked_interrupts():
            # New processes inherit the blocked signal until `_initialise_process` unblocks it.
            jobs: dict[Future[dict[str, str]], int] = {
                executor.submit(open_chunk, chunk): len(chunk) for chunk in chunks
            }
        processes = multiprocessing.active_children()
        for job in as_completed(jobs):
            yield job.result(), jobs.pop(job)
    except BrokenProcessPool as error:
        # On a busy machine, the death of processes by Ctrl-C may be seen before Ctrl-C itself.
        # Their exit codes are available after the shutdown of the pool.
        executor.shutdown(cancel_futures=True)
        if any(process.exitcode == -signal.SIGINT for process in processes):
            raise KeyboardInterrupt from error
        raise RuntimeError(
            "a process that opened images died (out of memory, or a file that crashes its "
            "decoder); check fewer data sets at a time with --dataset, or omit --deep"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _initialise_process() -> None:
    """Ends the process on Ctrl-C without a traceback, and ignores warnings about image files."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    warnings.simplefilter("ignore")


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Blocks SIGINT."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
