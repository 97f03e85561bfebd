"""Client of an OpenAI-compatible chat endpoint with retries, a request budget and shared pauses."""

from __future__ import annotations

import email.utils
import json
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import requests
import requests.auth

from runner.descriptions.endpoint_key import is_loopback

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
_MAX_RESPONSE_BYTES = 4_000_000
_MAX_MESSAGE_BYTES = 2000
_TRANSIENT_STATUSES = (408, 409, 425, 429)  # and 5xx
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown (?:param|field|arg)|extra (?:inputs|fields)",
    re.IGNORECASE,
)
_ABOUT_THE_IMAGE = re.compile(
    r"filter|polic(?:y|ies)|safety|moderat|context length|too (?:large|long|many)",
    re.IGNORECASE,
)


class UnavailableError(Exception):
    """The endpoint did not answer this request; a later request may succeed."""


class RejectedError(Exception):
    """The endpoint rejects this request; a retry would be rejected too.

    Attributes:
        is_about_image: whether the reason is the image; False if it may concern every image.
    """

    def __init__(self, message: str, *, is_about_image: bool) -> None:
        super().__init__(message)
        self.is_about_image = is_about_image


class EndpointError(RuntimeError):
    """The endpoint rejects every request: wrong key, model or address."""


class StoppedError(Exception):
    """The request budget is used up, or `ChatClient.stop` was called."""


class ChatAnswer(NamedTuple):
    """Text of an answer, and whether it was cut at the maximum number of tokens."""

    text: str
    is_cut: bool = False


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
        self._is_local = is_loopback(settings.url)
        self._parameters: dict[str, float] = {
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        self._tried = [self._parameters]

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
                    raise EndpointError(self._message(response.status_code, _error_text(response)))
        except (OSError, ValueError) as error:
            raise EndpointError(
                f"--url {self.settings.url}: no server answers ({_cause(error)}); start the "
                "server, or correct the address"
            ) from error

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> ChatAnswer:
        """Sends messages and returns the answer, whose text may be empty.

        A parameter that the model does not support is replaced or left out, for all requests.

        Raises:
            UnavailableError: All attempts failed.
            RejectedError: The endpoint rejects this request.
            EndpointError: The endpoint rejects every request.
            StoppedError: The budget is used up, or the client was stopped.
        """
        problem, attempt = "", 0
        while attempt <= self.settings.max_retries:
            self._wait_for_turn()
            retry_after: str | None = None
            parameters = self._parameters
            body = {"model": self.settings.model, "messages": list(messages), **parameters}
            try:
                with closing(self._send("POST", "chat/completions", body)) as response:
                    if 200 <= response.status_code < 300:
                        return _answer(_read(response, _MAX_RESPONSE_BYTES))
                    if self._adapt(response, parameters):
                        continue
                    problem = f"HTTP {response.status_code}"
                    retry_after = response.headers.get("Retry-After")
            except OSError as error:
                problem = _cause(error)
            except ValueError as error:
                problem = str(error)
            if attempt < self.settings.max_retries:
                self._pause(attempt, retry_after, problem)
            attempt += 1
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
            # A proxy would receive the key that is sent unencrypted on this machine.
            proxies={"http": "", "https": "", "all": ""} if self._is_local else None,
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

    def _adapt(self, response: requests.Response, sent: Mapping[str, float]) -> bool:
        """Adapts the parameters to an error; returns whether to repeat the request at once.

        Returns False for an error that may pass.

        Raises:
            RejectedError, EndpointError: a repeated request would be rejected too.
        """
        status = response.status_code
        if status in _TRANSIENT_STATUSES or status >= 500:
            return False
        text = _error_text(response)
        message = self._message(status, text)
        if status in (401, 403, 404, 405) or status < 400:
            raise EndpointError(message)
        is_about_image = "max_" not in text and bool(_ABOUT_THE_IMAGE.search(text))
        if is_about_image or not _UNSUPPORTED.search(text):
            is_about_image = is_about_image or bool(re.search(r"\bimage", text))
            raise RejectedError(message, is_about_image=is_about_image)
        adapted = adapted_parameters(sent, text)
        with self._lock:
            if self._parameters == sent:  # no other thread has adapted them
                if adapted in self._tried:
                    raise EndpointError(message)
                self._parameters = adapted
                self._tried.append(adapted)
        return True

    def _message(self, status: int, text: str) -> str:
        remedies = {
            401: "; check the key"
            if self._auth.has_key
            else "; no key was sent: give the environment variable of the key with --key-variable",
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

    @property
    def has_key(self) -> bool:
        """Whether requests have a key."""
        return self._key is not None

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            r.headers["Authorization"] = f"Bearer {self._key}"
        return r


def adapted_parameters(sent: Mapping[str, float], text: str) -> dict[str, float]:
    """Parameters without the one that an error message calls unsupported.

    max_tokens becomes max_completion_tokens or the reverse; temperature is left out.
    """
    adapted = dict(sent)
    for old, new in (
        ("max_tokens", "max_completion_tokens"),
        ("max_completion_tokens", "max_tokens"),
    ):
        if old in sent and (re.search(rf"\b{old}\b", text) or re.search(rf"\b{new}\b", text)):
            adapted[new] = adapted.pop(old)
            return adapted
    if "temperature" in text:
        adapted.pop("temperature", None)
    return adapted


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


def _error_text(response: requests.Response) -> str:
    return next(response.iter_content(_MAX_MESSAGE_BYTES), b"").decode("utf-8", "replace")


def _answer(body: bytes) -> ChatAnswer:
    """Returns the first choice; null, which some servers send, is an empty text.

    Raises:
        RejectedError: The model refuses to answer.
        ValueError: The response is not a chat completion.
    """
    try:
        response = json.loads(body)
        if isinstance(response, dict) and response.get("error"):
            raise ValueError(f"the server answers: {str(response['error'])[:200]}")
        choice = response["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
        refusal = choice["message"].get("refusal")
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("expected a chat completion, got another response") from error
    if refusal or reason == "content_filter":
        raise RejectedError(str(refusal or "the answer was filtered")[:200], is_about_image=True)
    if isinstance(content, list):
        content = "".join(str(each.get("text", "")) for each in content if isinstance(each, dict))
    if not isinstance(content, str | None):
        raise ValueError(f"expected text as content, got {type(content).__name__}")
    return ChatAnswer(content or "", reason == "length")


def _cause(error: BaseException) -> str:
    """Message of the original error, without those of the HTTP libraries."""
    original = error
    while original.__context__ is not None:
        original = original.__context__
    if isinstance(error, requests.Timeout) or isinstance(original, TimeoutError):
        return "a time-out"
    return str(original) or type(original).__name__
