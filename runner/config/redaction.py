"""Keeps secrets out of everything that is written: masked passwords, and environment references.

`${oc.env:NAME}` in a configuration is replaced by the environment variable NAME, but files, events
and messages keep the reference. A password written out in a URL is masked there.
"""

from __future__ import annotations

import re

MASK = "***"
_REFERENCE = "${oc.env:"
_NAMED_REFERENCE = re.compile(r"\$\{oc\.env:(\w+)\}")
_HIDDEN = "\x00{}\x00"
_PASSWORD = re.compile(r"(://[^\s/@:'\"]*:)([^\s'\"]*)(?=@)")
_PASSWORD_OF_URI = re.compile(r"(://[^/@:]*:)(.*)(?=@)", re.DOTALL)
_TOKEN = re.compile(r"(\bhttps?://)([^\s/@:'\"]+)(?=@)")
_PARAMETER = re.compile(
    r"([?&](?:\w*password|passwd|pwd|\w*token|\w*secret|(?:api_?)?key)=)([^&\s'\"]*)", re.IGNORECASE
)


def masked(text: str) -> str:
    """Masks passwords and tokens in the URLs of a text, such as an error message."""
    return _masked(text, _PASSWORD) if "://" in text else text


def masked_uri(uri: str) -> str:
    """Masks passwords and tokens of one URI; `${oc.env:NAME}` is kept.

    Everything between the first ":" of the user and the last "@" counts as password, because
    users do not always escape "/" and "@" in it.
    """
    return _masked(uri, _PASSWORD_OF_URI)


def masked_override(override: str) -> str:
    """Masks passwords and tokens of a `key=value` override."""
    key, separator, value = override.partition("=")
    return f"{key}{separator}{masked_uri(value) if key == 'tracking.uri' else masked(value)}"


def is_masked(uri: str) -> bool:
    """Whether a secret of the URI is masked, so it cannot be used."""
    return f":{MASK}@" in uri or f"//{MASK}@" in uri or f"={MASK}" in uri


def has_reference(value: object) -> bool:
    """Whether a value contains a reference to an environment variable."""
    return _REFERENCE in str(value)


def _masked(text: str, password: re.Pattern[str]) -> str:
    names: list[str] = []

    def hide(match: re.Match[str]) -> str:
        names.append(match[0])
        return _HIDDEN.format(len(names) - 1)

    def mask(match: re.Match[str]) -> str:
        is_reference = re.fullmatch(r"(?:\x00\d+\x00)+", match[2])
        return match[0] if is_reference else f"{match[1]}{MASK}"

    text = _NAMED_REFERENCE.sub(hide, text)
    for pattern in (password, _TOKEN, _PARAMETER):
        text = pattern.sub(mask, text)
    return re.sub(r"\x00(\d+)\x00", lambda match: names[int(match[1])], text)
