"""Ending a run on SIGTERM, the notice before a machine is taken away.

A run in this process writes a checkpoint at the next iteration and raises `TerminatedError`. On
Ray, the driver receives the signal and asks rank 0 for the checkpoint by a file in the run folder.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

GRACE_S = 25.0
"""Maximum time to wait for the checkpoint; machines are often taken away after 30 s."""

_POLL_S = 0.5


class TerminatedError(BaseException):
    """The process received SIGTERM.

    Not an `Exception`: like KeyboardInterrupt, it must not be handled as a failure of the run.
    """


class RunFailedError(RuntimeError):
    """Processes or machines of a run failed; the same command resumes the run."""


class StopRequest:
    """A request to end the run after a checkpoint, for the training loop; here it is never set."""

    def is_set(self) -> bool:
        """Returns whether the run should end; called after every iteration."""
        return False

    def finish(self) -> None:
        """Ends the run; called after the checkpoint is written."""

    def check(self) -> None:
        """Ends the run if this is requested; call it directly after a checkpoint."""
        if self.is_set():
            self.finish()


class SignalRequest(StopRequest):
    """Request by a signal of this process."""

    def __init__(self) -> None:
        self.requested = False

    def is_set(self) -> bool:
        """Returns whether the signal was received."""
        return self.requested

    def finish(self) -> NoReturn:
        """Raises TerminatedError."""
        raise TerminatedError


class FileRequest(StopRequest):
    """Request by a file, from the driver on Ray to rank 0; the file is checked twice a second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next_check_s = 0.0

    def is_set(self) -> bool:
        """Returns whether the file exists."""
        now = time.monotonic()
        if now < self._next_check_s:
            return False
        self._next_check_s = now + _POLL_S
        return self._file.exists()

    def finish(self) -> None:
        """Deletes the file, by which the driver knows that the checkpoint is written, and waits.

        The driver then ends all workers. An error here would make Ray Train replace this worker.
        """
        self._file.unlink(missing_ok=True)
        time.sleep(2 * GRACE_S)
        raise TerminatedError


@contextmanager
def on_sigterm(handle: Callable[[], None]) -> Iterator[None]:
    """Calls `handle` on SIGTERM within the block; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_signal: int, _frame: FrameType | None) -> None:
        handle()

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def raise_terminated() -> NoReturn:
    """Raises TerminatedError: nothing needs to be saved."""
    raise TerminatedError


@contextmanager
def stop_at_next_checkpoint(grace_s: float = GRACE_S) -> Iterator[SignalRequest]:
    """Requests on SIGTERM that the training loop of this process stops.

    If the loop has not stopped after `grace_s` seconds, for example within an evaluation, or if a
    second signal arrives, `TerminatedError` is raised at once; the run then resumes from its last
    checkpoint.
    """
    request = SignalRequest()
    previous = signal.getsignal(signal.SIGALRM)

    def expired(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TerminatedError

    def handle() -> None:
        if request.requested:
            raise TerminatedError
        request.requested = True
        signal.signal(signal.SIGALRM, expired)
        signal.setitimer(signal.ITIMER_REAL, grace_s)

    with on_sigterm(handle):
        try:
            yield request
        finally:
            if request.requested:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, previous)


@contextmanager
def stop_workers(file: Path, grace_s: float = GRACE_S) -> Iterator[None]:
    """Asks rank 0 on SIGTERM for a checkpoint by `file`, waits for it, raises TerminatedError.

    Args:
        file: see `FileRequest`; a file left by an earlier start is deleted.
        grace_s: maximum seconds to wait.
    """
    file.unlink(missing_ok=True)

    def handle() -> None:
        if not file.exists():
            file.touch()
            deadline = time.monotonic() + grace_s
            while file.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        raise TerminatedError

    try:
        with on_sigterm(handle):
            yield
    finally:
        file.unlink(missing_ok=True)
