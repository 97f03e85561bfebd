"""Checks the address of a chat endpoint, and decides whether it receives the API key."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from runner.config.redaction import masked

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_VARIABLE = "OPENAI_API_KEY"


def check_url(url: str) -> None:
    """Checks that an address has a scheme and a host, and no password.

    Raises:
        ValueError: the address is invalid; a password in it is not shown.
    """
    if not re.match(r"https?://[^\s\\/?#]", url) or re.search(r"[\s\\]", url):
        raise ValueError(f"--url: expected http://... or https://..., got {masked(url)!r}")
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            f"--url: expected an address without user and password, got {masked(url)!r}; put the "
            "key into an environment variable and give its name with --key-variable"
        )
    try:
        urlsplit(url).port  # noqa: B018
    except ValueError as error:
        raise ValueError(f"--url: expected a port number, got {masked(url)!r}") from error


def key_for(url: str, variable: str | None) -> str | None:
    """Reads the API key that an endpoint receives.

    The key of OPENAI_API_KEY is sent to OpenAI alone. Another endpoint receives a key only if its
    variable is given, and over unencrypted HTTP only on this machine.

    Args:
        url: checked address.
        variable: name of the environment variable; "none" for no key; None if not given.

    Raises:
        ValueError: the variable is not set, or the connection is not encrypted.
    """
    if variable is None and urlsplit(url).netloc == urlsplit(DEFAULT_URL).netloc:
        variable = DEFAULT_VARIABLE
    if variable is None or variable == "none":
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"--key-variable: expected the API key in the environment variable {variable}, which "
            "is not set; set it, or use --key-variable none for an endpoint without a key"
        )
    if url.startswith("http:") and not is_loopback(url):
        raise ValueError(
            f"--url: expected https:// for an endpoint that receives a key, got {url}; use https, "
            "a tunnel to 127.0.0.1, or --key-variable none for an endpoint without a key"
        )
    return key


def is_loopback(url: str) -> bool:
    """Whether the host of an address is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
