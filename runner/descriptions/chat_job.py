"""All questions of a job to a chat endpoint.

A pool of threads in this process, not Ray Data: the work is waiting for a server, and the threads
share what a cluster's processes could share only through an actor: one budget, one pause when the
server asks for it, one judgement whether it is still there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from runner.descriptions.chat_client import (
    ChatClient,
    RejectedError,
    StoppedError,
    UnavailableError,
)
from runner.descriptions.images import HashedImage, data_url
from runner.descriptions.prompts import BadAnswerError, Prompt, answers_in
from runner.descriptions.store import DescriptionStore, Row


@dataclass(frozen=True, slots=True)
class Asking:
    """How a job asks.

    Attributes:
        asked: what rows are kept under.
        max_tries: answers to one image that are looked at before it is marked failed.
        concurrency: questions under way at a time.
    """

    asked: str
    max_tries: int = 3
    concurrency: int = 8

    @property
    def max_unavailable(self) -> int:
        """Images in a row that get no answer before the endpoint is taken as gone."""
        return max(3, self.concurrency)


def ask_all(
    images: Sequence[HashedImage],
    prompt: Prompt,
    client: ChatClient,
    asking: Asking,
    store: DescriptionStore,
    on_row: Callable[[Row], None],
) -> str:
    """Asks for every image; rows go to the store as they come.

    Returns:
        why it ended before the last image, or "".

    Raises:
        EndpointError: the endpoint answers no question (a wrong key, say).
    """
    gone = _Gone(asking.max_unavailable)

    def one(image: HashedImage) -> None:
        row = _ask_for(image, prompt, client, asking)
        store.add(row)  # here, not where futures are gathered: an answer is on disk at once
        on_row(row)
        if gone.is_it(row):
            client.stop()

    pool = ThreadPoolExecutor(asking.concurrency)
    running: set[Future[None]] = set()
    try:
        for image in images:
            running.add(pool.submit(one, image))
            if len(running) >= 2 * asking.concurrency:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                _raise_first(done)
        _raise_first(wait(running).done)
    except StoppedError:
        if gone.reason:
            return f"the endpoint answers no longer: {gone.reason}"
        return f"the budget of {client.num_requests} requests is spent"
    finally:
        client.stop()
        pool.shutdown(cancel_futures=True)
    return ""


def _raise_first(futures: set[Future[None]]) -> None:
    """Any other error comes before being stopped, which may only follow from it."""
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error


class _Gone:
    """Whether so many images in a row have got no answer that nobody seems to be there."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._in_a_row = 0
        self.reason = ""

    def is_it(self, row: Row) -> bool:
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if row.is_passing else 0
            if self._in_a_row >= self._limit:
                self.reason = row.reason
            return bool(self.reason)


def _ask_for(image: HashedImage, prompt: Prompt, client: ChatClient, asking: Asking) -> Row:
    """One image until its texts pass, or `max_tries` answers did not.

    Raises:
        StoppedError, EndpointError: no row, the image was not judged.
    """

    def failed(reason: str, num_tries: int, is_passing: bool = False) -> Row:
        return Row(image.sha256, asking.asked, {}, reason, is_passing, num_tries)

    try:
        url = data_url(image.path)
    except (OSError, ValueError, SyntaxError) as error:
        return failed(f"unreadable image: {error}", 0)
    problem = ""
    for number in range(1, asking.max_tries + 1):
        try:
            answer = client.ask(_messages(prompt.instruction_for(image.sha256), url, problem))
            texts = prompt.describe(answers_in(answer), image.sha256)
            return Row(image.sha256, asking.asked, texts, num_tries=number)
        except BadAnswerError as error:
            problem = str(error)
        except RejectedError as error:
            return failed(f"refused: {error}", number)
        except UnavailableError as error:
            return failed(f"no answer: {error}", number, is_passing=True)
    return failed(f"bad answer: {problem}", asking.max_tries)


def _messages(text: str, url: str, problem: str) -> list[dict[str, object]]:
    """The question; after an answer that did not pass, what was wrong with it."""
    if problem:
        text += f"\nAn earlier answer was not accepted: {problem}. Mind this."
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return [{"role": "user", "content": content}]
