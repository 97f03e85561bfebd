"""Client of an OpenAI-compatible chat endpoint with retries, a request budget and shared pauses."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests
import requests.auth

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
_MAX_RESPONSE_BYTES = 4_000_000
_MAX_MESSAGE_BYTES = 2000
_TRANSIENT_STATUSES = (408, 409, 425, 429)  # and 5xx


class UnavailableError(Exception):
    """The endpoint did not answer this request; a later request may succeed."""


class RejectedError(Exception):
    """The endpoint rejects this request; a retry would be rejected too."""


class EndpointError(RuntimeError):
    """The endpoint rejects every request: wrong key, model or address."""


class StoppedError(Exception):
    """The request budget is used up, or `ChatClient.stop` was called."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Endpoint and sampling settings.

    Attributes:
        url: base URL, such as http://127.0.0.1:8000/v1.
        model: name of the model at the endpoint.
        timeout_s: maximum seconds without a received byte.
        max_retries: retries of a request after status 429, 5xx, a timeout or an invalid response.
        temperature: sampling temperature, at least 0.
        max_tokens: maximum length of an answer in tokens.
    """

    url: str
    model: str
    timeout_s: float = 60.0
    max_retries: int = 5
    temperature: float = 0.2
    max_tokens: int = 400


class ChatClient:
    """Thread-safe client; all threads share its request budget and its pauses.

    Args:
        settings: endpoint and sampling settings.
        key: bearer token; None for an endpoint without authentication.
        max_requests: request budget, including retries; None = unlimited.
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
        self._auth = _BearerAuth(key)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._resume_at = 0.0
        self._random = random.Random()

    @property
    def is_budget_spent(self) -> bool:
        """Whether no further request is allowed."""
        return self._max_requests is not None and self.num_requests >= self._max_requests

    def stop(self) -> None:
        """Ends the pauses of all threads; later requests raise StoppedError."""
        self._stopped.set()

    def check(self) -> None:
        """Checks that the endpoint exists and accepts the key, without using the budget.

        Raises:
            EndpointError: The endpoint does not answer, or rejects the key.
        """
        try:
            with closing(self._send("GET", "models")) as response:
                # Not every endpoint lists its models; any other status shows that it exists.
                if response.status_code in (401, 403) or 300 <= response.status_code < 400:
                    raise EndpointError(self._message(response))
        except (OSError, ValueError) as error:
            raise EndpointError(
                f"--url {self.settings.url}: no server answers ({_cause(error)}); start the "
                "server, or correct the address"
            ) from error

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Sends messages and returns the text of the answer, which may be empty.

        Raises:
            UnavailableError: All attempts failed.
            RejectedError: The endpoint rejects this request.
            EndpointError: The endpoint rejects every request.
            StoppedError: The budget is used up, or the client was stopped.
        """
        body = {
            "model": self.settings.model,
            "messages": list(messages),
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        problem = ""
        for attempt in range(self.settings.max_retries + 1):
            self._wait_for_turn()
            retry_after: str | None = None
            try:
                with closing(self._send("POST", "chat/completions", body)) as response:
                    if 200 <= response.status_code < 300:
                        return _answer_text(_read(response, _MAX_RESPONSE_BYTES))
                    self._raise_if_permanent(response)
                    problem = f"HTTP {response.status_code}"
                    retry_after = response.headers.get("Retry-After")
            except OSError as error:
                problem = _cause(error)
            except ValueError as error:
                problem = str(error)
            if attempt < self.settings.max_retries:
                self._pause(attempt, retry_after, problem)
        raise UnavailableError(f"{problem} ({self.settings.max_retries + 1} attempts)")

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> requests.Response:
        """Sends one request; redirects are not followed, because they could leak the key."""
        return requests.request(
            method,
            f"{self.settings.url.rstrip('/')}/{path}",
            json=body,
            headers={"User-Agent": "lifelong-reid"},
            auth=self._auth,
            timeout=self.settings.timeout_s,
            allow_redirects=False,
            stream=True,
        )

    def _wait_for_turn(self) -> None:
        """Waits for the end of a pause, then takes one request from the budget."""
        while (rest := self._resume_at - time.monotonic()) > 0:
            if self._stopped.wait(rest):
                break
        with self._lock:
            if self._stopped.is_set() or self.is_budget_spent:
                raise StoppedError
            self.num_requests += 1

    def _pause(self, attempt: int, retry_after: str | None, problem: str) -> None:
        minimum_s = retry_after_s(retry_after, datetime.now(UTC))
        if minimum_s > LONGEST_WAIT_S:
            raise UnavailableError(
                f"{problem}; the server asks to wait {minimum_s:.0f} s, more than the limit of "
                f"{LONGEST_WAIT_S:.0f} s"
            )
        if minimum_s:
            # A rate limit concerns all threads, although only one received the response.
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + minimum_s)
        with self._lock:
            jitter = self._random.random()
        if self._stopped.wait(backoff_s(attempt, minimum_s, jitter)):
            raise StoppedError

    def _raise_if_permanent(self, response: requests.Response) -> None:
        status = response.status_code
        if status in _TRANSIENT_STATUSES or status >= 500:
            return
        if status in (401, 403, 404, 405) or status < 400:
            raise EndpointError(self._message(response))
        raise RejectedError(self._message(response))

    def _message(self, response: requests.Response) -> str:
        status = response.status_code
        text = next(response.iter_content(_MAX_MESSAGE_BYTES), b"").decode("utf-8", "replace")
        remedies = {
            401: "; check the key",
            403: "; check that the key may use the model",
            404: "; check --url (it usually ends in /v1) and --model",
        }
        remedy = "; use the address of the redirect" if status < 400 else remedies.get(status, "")
        return (
            f"--url {self.settings.url} answers HTTP {status}: {' '.join(text.split())[:200]}"
            f"{remedy}"
        )


class _BearerAuth(requests.auth.AuthBase):
    """Bearer token; without a key no header, not even from ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            r.headers["Authorization"] = f"Bearer {self._key}"
        return r


def backoff_s(attempt: int, minimum_s: float, jitter: float) -> float:
    """Computes the wait before the next attempt: exponential backoff with full jitter.

    Args:
        attempt: number of failed attempts before the current one.
        minimum_s: Retry-After of the server in seconds, or 0.
        jitter: random number in [0, 1), so that threads do not retry at the same time.

    Returns:
        Seconds, at least `minimum_s`.
    """
    return minimum_s + jitter * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)


def retry_after_s(retry_after: str | None, now: datetime) -> float:
    """Parses a Retry-After header, which is in seconds or a date.

    Returns:
        Seconds from `now`; 0 if the header is missing or invalid.
    """
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


def _read(response: requests.Response, limit: int) -> bytes:
    body = b""
    for chunk in response.iter_content(65536):
        body += chunk
        if len(body) > limit:
            raise ValueError(f"expected a response of at most {limit:,} bytes, got more")
    return body


def _answer_text(body: bytes) -> str:
    """Returns the text of the first choice; null, which some servers send, is an empty text.

    Raises:
        ValueError: The response is not a chat completion.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError("expected a chat completion, got another response") from error
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError(f"expected text as content, got {type(content).__name__}")
    return content


def _cause(error: BaseException) -> str:
    """Message of the original error, without those of the HTTP libraries."""
    original = error
    while original.__context__ is not None:
        original = original.__context__
    if isinstance(error, requests.Timeout) or isinstance(original, TimeoutError):
        return "a time-out"
    return str(original) or type(original).__name__
