"""An iterator that works ahead on a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """What follows the last item: why there are no more."""

    error: BaseException | None = None


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yields what `items` yields, computing up to `depth` of them in advance on one thread.

    Order and errors are those of `items`; leaving the loop early stops the thread. `depth` is at
    least 1.
    """
    assert depth >= 1, "a queue without a limit would hold everything"
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
        except BaseException as error:  # handed to the consumer, which raises it
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
