"""Prefetching of the items of an iterator on a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """Marks the end of the items; holds the error that ended them, if any."""

    error: BaseException | None = None


def prefetch(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yields the items of an iterator, computing up to `depth` of them in advance on one thread.

    Order and errors are unchanged. Leaving the loop early stops the thread.

    Args:
        items: the iterator; it is advanced on the thread.
        depth: maximum number of items to hold, at least 1.
    """
    assert depth >= 1, f"depth: expected at least 1, got {depth}"
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as error:  # raised by the consumer
            put(_End(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
