"""Opening many image files on all cores, to find those that cannot be read.

Imported by every process that opens images, so neither torch nor ray is: each would pay seconds.
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

from PIL import Image

IMAGES_PER_CHUNK = 64
"""Some 20 ms of work: little beside what a message between processes costs, little to stop for."""


def open_image(path: str) -> str | None:
    """Decodes a whole image file; returns why that is impossible, or None.

    What it accepts, `runner.streaming.image_decoding.decode_image` accepts: the same library, the
    same conversion.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode != "RGB":
                image.convert("RGB")
    except Exception as error:  # whatever a decoder raises at a malformed file, the next one counts
        return f"{type(error).__name__}: {error}"
    return None


def open_chunk(paths: Sequence[str]) -> dict[str, str]:
    """Path -> why it cannot be read, for those of the files that cannot."""
    reasons = {path: open_image(path) for path in paths}
    return {path: reason for path, reason in reasons.items() if reason is not None}


def open_images(
    paths: Sequence[str],
    opened: Callable[[int], None] = lambda _: None,
    *,
    num_processes: int | None = None,
    images_per_chunk: int = IMAGES_PER_CHUNK,
) -> dict[str, str]:
    """Decodes all files, by spawned processes if there are more than a chunk of them.

    Spawned, not forked: the caller may hold threads (torch) that a fork would not survive. Ctrl-C
    ends the processes at once, silently, and raises KeyboardInterrupt here.

    Args:
        paths: image files, each once.
        opened: told how many more files have been opened, unreadable ones among them.
        num_processes: how many open files at the same time; None: one for each CPU there is.
        images_per_chunk: files that a process takes at a time.

    Returns:
        Path -> why it cannot be read, in the order of `paths`.

    Raises:
        RuntimeError: one of the processes died.
    """
    chunks = [
        paths[begin : begin + images_per_chunk] for begin in range(0, len(paths), images_per_chunk)
    ]
    useful = min(num_processes or len(os.sched_getaffinity(0)), len(chunks))
    reasons: dict[str, str] = {}
    # Closed, so that an interrupt in `opened` ends the processes too.
    with closing(_opened_chunks(chunks, useful)) as done:
        for found, num_images in done:
            reasons |= found
            opened(num_images)
    return {path: reasons[path] for path in paths if path in reasons}


def _opened_chunks(
    chunks: Sequence[Sequence[str]], num_processes: int
) -> Generator[tuple[dict[str, str], int]]:
    """(what cannot be read, number of files) of each chunk, in the order in which they are done."""
    if num_processes <= 1:
        for chunk in chunks:
            with warnings.catch_warnings(action="ignore"):
                found = open_chunk(chunk)
            yield found, len(chunk)
        return
    executor = ProcessPoolExecutor(
        num_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    processes: Sequence[BaseProcess] = ()
    try:
        with _interrupts_held_back():
            # A new process inherits this, so a Ctrl-C while it starts waits for `_begin`.
            jobs: dict[Future[dict[str, str]], int] = {
                executor.submit(open_chunk, chunk): len(chunk) for chunk in chunks
            }
        processes = multiprocessing.active_children()
        for job in as_completed(jobs):
            yield job.result(), jobs.pop(job)
    except BrokenProcessPool as error:
        # On a busy machine their death by Ctrl-C can be seen here before Ctrl-C itself is. Their
        # exit codes are known for certain when the pool has waited for them.
        executor.shutdown(cancel_futures=True)
        if any(process.exitcode == -signal.SIGINT for process in processes):
            raise KeyboardInterrupt from error
        raise RuntimeError(
            "a process that opened images died (out of memory, or a file that its decoder cannot "
            "bear); look at fewer data sets at a time with --dataset, or without --deep"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """Of each process: Ctrl-C ends it without a traceback, and odd files cause no warnings."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    warnings.simplefilter("ignore")


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
