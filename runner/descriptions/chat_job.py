"""Description of images by a chat endpoint.

Uses a thread pool instead of Ray Data, because the work consists of waiting for a server. Threads
share the request budget, the pauses that the server requests, and the detection of an outage; the
processes of a cluster would need an actor for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from runner.descriptions.chat_client import (
    ChatClient,
    EndpointError,
    RejectedError,
    StoppedError,
    UnavailableError,
)
from runner.descriptions.images import HashedImage, data_url
from runner.descriptions.prompts import BadAnswerError, Prompt, parse_answers
from runner.descriptions.store import DescriptionStore, Row

MAX_EQUAL_REJECTIONS = 3
"""Equal rejections of the first images after which the job stops."""


@dataclass(frozen=True, slots=True)
class ChatJobSettings:
    """Settings of a job.

    Attributes:
        source: key of the rows in the store: prompt version, backend and model.
        max_tries: answers to validate before an image is marked as failed.
        concurrency: concurrent requests.
    """

    source: str
    max_tries: int = 3
    concurrency: int = 8

    @property
    def max_unavailable(self) -> int:
        """Consecutive images without an answer after which the job stops."""
        return max(3, self.concurrency)


def ask_all(
    images: Sequence[HashedImage],
    prompt: Prompt,
    client: ChatClient,
    settings: ChatJobSettings,
    store: DescriptionStore,
    on_row: Callable[[Row], None],
) -> str:
    """Describes every image and adds each row to the store as soon as it is complete.

    Returns:
        The reason why the job stopped before the last image, or "".

    Raises:
        EndpointError: The endpoint rejects every request, for example because of a wrong key.
    """
    outage = _OutageDetector(settings.max_unavailable)
    rejections = _HeldRejections()

    def add(rows: Sequence[Row]) -> None:
        for row in rows:
            store.add(row)  # in the thread, so that every answer is on disk at once
            on_row(row)

    def hold(image: HashedImage, error: RejectedError) -> list[Row]:
        try:
            return rejections.hold(_refused(image, settings, error), str(error))
        except EndpointError:
            client.stop()  # no other image is asked for before the error is raised
            raise

    def describe(image: HashedImage) -> None:
        try:
            row = _describe(image, prompt, client, settings)
        except RejectedError as error:
            add(hold(image, error))
            return
        add([*rejections.release(), row])
        if outage.update(row):
            client.stop()

    pool = ThreadPoolExecutor(settings.concurrency)
    running: set[Future[None]] = set()
    try:
        for image in images:
            running.add(pool.submit(describe, image))
            if len(running) >= 2 * settings.concurrency:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                _raise_first(done)
        _raise_first(wait(running).done)
        add(rejections.release())
    except StoppedError:
        if outage.reason:
            return f"the endpoint stopped answering: {outage.reason}"
        return f"the request budget is used up after {client.num_requests} requests"
    finally:
        client.stop()
        pool.shutdown(cancel_futures=True)
    return ""


def _raise_first(futures: set[Future[None]]) -> None:
    """Raises the first error; StoppedError comes last because another error may cause it."""
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error


class _HeldRejections:
    """Rejections that may concern every image, held until the first answer.

    An endpoint that rejects the first images with equal words has no problem with these images.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Row] = []
        self._messages: set[str] = set()
        self._is_answering = False

    def hold(self, row: Row, message: str) -> list[Row]:
        """Returns the rejections to store now.

        Raises:
            EndpointError: the first images were all rejected with these words.
        """
        with self._lock:
            if self._is_answering:
                return [row]
            self._held.append(row)
            self._messages.add(message)
            if len(self._held) >= MAX_EQUAL_REJECTIONS and len(self._messages) == 1:
                raise EndpointError(message)
        return []

    def release(self) -> list[Row]:
        """Returns all held rejections, because the endpoint answers."""
        with self._lock:
            self._is_answering = True
            held, self._held = self._held, []
        return held


class _OutageDetector:
    """Detects an outage: `limit` consecutive images without an answer."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._num_consecutive = 0
        self.reason = ""

    def update(self, row: Row) -> bool:
        with self._lock:
            self._num_consecutive = self._num_consecutive + 1 if row.is_passing else 0
            if self._num_consecutive >= self._limit:
                self.reason = row.reason
            return bool(self.reason)


def _describe(
    image: HashedImage, prompt: Prompt, client: ChatClient, settings: ChatJobSettings
) -> Row:
    """Asks until the texts of an image are valid, at most `max_tries` times.

    Raises:
        StoppedError, EndpointError: The image has no result.
        RejectedError: The endpoint rejects the request, maybe not because of the image.
    """

    def failed(reason: str, num_tries: int, is_passing: bool = False) -> Row:
        return Row(image.sha256, settings.source, {}, reason, is_passing, num_tries)

    try:
        url = data_url(image.path)
    except (OSError, ValueError, SyntaxError) as error:
        return failed(f"unreadable image: {error}", 0)
    problem = ""
    for number in range(1, settings.max_tries + 1):
        try:
            answer = client.ask(_messages(prompt.instruction_for(image.sha256), url, problem))
        except RejectedError as error:
            if not error.is_about_image:
                raise
            return _refused(image, settings, error, number)
        except UnavailableError as error:
            return failed(f"no answer: {error}", number, is_passing=True)
        try:
            texts = prompt.describe(parse_answers(answer.text), image.sha256)
            return Row(image.sha256, settings.source, texts, num_tries=number)
        except BadAnswerError as error:
            problem = str(error)
        if answer.is_cut:
            limit = client.settings.max_tokens
            reason = f"the answer was cut at {limit} tokens; increase --max-tokens"
            return failed(reason, number, is_passing=True)
    return failed(f"bad answer: {problem}", settings.max_tries)


def _refused(
    image: HashedImage, settings: ChatJobSettings, error: RejectedError, num_tries: int = 1
) -> Row:
    return Row(image.sha256, settings.source, {}, f"refused: {error}", num_tries=num_tries)


def _messages(text: str, url: str, problem: str) -> list[dict[str, object]]:
    """Builds the request; after an invalid answer it includes the problem of that answer."""
    if problem:
        text += f"\nAn earlier answer was not accepted: {problem}. Mind this."
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return [{"role": "user", "content": content}]
