"""One question to an OpenAI-compatible chat endpoint, asked until it is answered or given up.

The standard library's client is enough: a question takes seconds, and a connection milliseconds.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
_ANSWER_BYTES = 4_000_000


class UnavailableError(Exception):
    """The endpoint did not answer this question; later it may."""


class RejectedError(Exception):
    """The endpoint will not answer this question, however often it is asked."""


class EndpointError(RuntimeError):
    """The endpoint will answer no question: a wrong key, model or address."""


class StoppedError(Exception):
    """The job is over: the budget is spent, or somebody stopped it."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Where and how to ask.

    Attributes:
        url: base, such as http://127.0.0.1:8000/v1.
        model: its name there.
        timeout_s: without a byte for so long, a question is taken as lost.
        max_retries: further attempts at one question after 429, 5xx, a time-out or a broken answer.
        temperature: of sampling, at least 0.
        max_tokens: of an answer.
    """

    url: str
    model: str
    timeout_s: float = 60.0
    max_retries: int = 5
    temperature: float = 0.2
    max_tokens: int = 400


class ChatClient:
    """Asks questions for any number of threads, which share its budget and its pauses.

    Args:
        settings: where and how.
        key: sent as a bearer token; None for an endpoint that asks for none.
        max_requests: attempts of all questions together; None: as many as it takes.
    """

    def __init__(
        self,
        settings: ChatSettings,
        key: str | None,
        max_requests: int | None = None,
    ) -> None:
        self.settings = settings
        self.num_requests = 0
        self._max_requests = max_requests
        self._headers = {"Content-Type": "application/json", "User-Agent": "lifelong-reid"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._resume_at = 0.0
        self._random = random.Random()
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def is_budget_spent(self) -> bool:
        """Whether no further attempt is allowed."""
        return self._max_requests is not None and self.num_requests >= self._max_requests

    def stop(self) -> None:
        """Ends the waits of all threads; every later question raises StoppedError."""
        self._stopped.set()

    def check(self) -> None:
        """Looks whether somebody is there who takes the key, before any work; costs no question.

        Raises:
            EndpointError: nobody is there, or the key is refused.
        """
        request = urllib.request.Request(f"{self._base}/models", headers=self._headers)
        try:
            self._opener.open(request, timeout=self.settings.timeout_s).close()
        except urllib.error.HTTPError as error:
            # Not every endpoint lists its models; whatever else it says, it is there.
            with error:
                if error.code in (401, 403) or error.code < 400:
                    raise EndpointError(self._said(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EndpointError(
                f"--url {self.settings.url}: nobody answers there ({_cause(error)}); start the "
                "server, or correct the address"
            ) from error

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The answer's text, which may be empty.

        Raises:
            UnavailableError, RejectedError, EndpointError, StoppedError.
        """
        body = json.dumps(
            {
                "model": self.settings.model,
                "messages": list(messages),
                "temperature": self.settings.temperature,
                "max_tokens": self.settings.max_tokens,
            }
        ).encode()
        last = ""
        for attempt in range(self.settings.max_retries + 1):
            self._wait_for_turn()
            retry_after: str | None = None
            try:
                return self._ask_once(body)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in (408, 409, 425, 429) and error.code < 500:
                        self._give_up(error)
                    last, retry_after = f"HTTP {error.code}", error.headers.get("Retry-After")
            except (OSError, http.client.HTTPException) as error:
                last = _cause(error)
            except ValueError as error:
                last = str(error)
            if attempt < self.settings.max_retries:
                self._pause(attempt, retry_after, last)
        raise UnavailableError(f"{last}, {self.settings.max_retries + 1} times")

    @property
    def _base(self) -> str:
        return self.settings.url.rstrip("/")

    def _ask_once(self, body: bytes) -> str:
        request = urllib.request.Request(
            f"{self._base}/chat/completions", data=body, headers=self._headers, method="POST"
        )
        with self._opener.open(request, timeout=self.settings.timeout_s) as response:
            return _content(response.read(_ANSWER_BYTES))

    def _wait_for_turn(self) -> None:
        """Waits as long as the endpoint asked everybody to, and takes one from the budget."""
        while (rest := self._resume_at - time.monotonic()) > 0:
            if self._stopped.wait(rest):
                break
        with self._lock:
            if self._stopped.is_set() or self.is_budget_spent:
                raise StoppedError
            self.num_requests += 1

    def _pause(self, attempt: int, retry_after: str | None, last: str) -> None:
        asked_s = seconds_of(retry_after, datetime.now(UTC))
        if asked_s > LONGEST_WAIT_S:
            raise UnavailableError(f"{last}, and to wait for {asked_s:.0f} s")
        if asked_s:
            # One thread was told; a limit of requests concerns all.
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + asked_s)
        with self._lock:
            jitter = self._random.random()
        if self._stopped.wait(wait_s(attempt, asked_s, jitter)):
            raise StoppedError

    def _give_up(self, error: urllib.error.HTTPError) -> None:
        if error.code in (401, 403, 404, 405) or error.code < 400:
            raise EndpointError(self._said(error)) from error
        raise RejectedError(self._said(error)) from error

    def _said(self, error: urllib.error.HTTPError) -> str:
        words = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        what_to_do = {
            401: "; is the key right?",
            403: "; may this key use the model?",
            301: "; give the address that it points to",
            302: "; give the address that it points to",
            404: "; are --url (it ends in /v1 as a rule) and --model right?",
        }
        return (
            f"--url {self.settings.url} answers HTTP {error.code}: {words}"
            f"{what_to_do.get(error.code, '')}"
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would carry the key to another server."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """No request instead."""
        return


def wait_s(attempt: int, asked_s: float, jitter: float) -> float:
    """Seconds before the next attempt: exponential with full jitter, never under what was asked.

    Args:
        attempt: how many have failed before this one.
        asked_s: the server's Retry-After, 0 without one.
        jitter: in [0, 1); threads that failed together must not come back together.
    """
    return asked_s + jitter * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)


def seconds_of(retry_after: str | None, now: datetime) -> float:
    """A Retry-After header, in seconds or as a date; 0 for none and for one that is neither."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _content(body: bytes) -> str:
    """The text of the first choice; null, as some servers give for nothing said, is empty.

    Raises:
        ValueError: this is no chat completion.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError("a response that is no chat completion") from error
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError("a response whose content is no text")
    return content


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "a time-out"
    return str(reason) or type(reason).__name__
