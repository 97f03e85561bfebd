"""Comparison and short display of the JSON values in protocol locks."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

KeyPath = tuple[str, ...]
"""Keys from the root of a lock to a value."""

_MAX_CHARACTERS, _MAX_ITEMS = 100, 12
_HASH = re.compile(r"[0-9a-f]{64}")


class _Missing(enum.Enum):
    MISSING = "not recorded"


MISSING: Final = _Missing.MISSING
"""Result of `at` for a path without a value."""


def flat(value: Any) -> dict[KeyPath, Any]:
    """Return all leaves by path; lists and empty mappings are leaves."""
    return dict(_leaves(value, ()))


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def at(value: Any, path: KeyPath) -> Any:
    """Return the value at a path, or `MISSING`."""
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value


def same(values: Iterable[Any]) -> bool:
    """Return whether all values have the same JSON text (1, 1.0 and true differ)."""
    return len({_json(value) for value in values}) <= 1


def _json(value: Any) -> str:
    return "" if value is MISSING else json.dumps(value, sort_keys=True)


def plain(value: Any) -> str:
    """Format a value for reading; shorten long values, and hashes to eight digits."""
    if value is MISSING:
        return MISSING.value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        if _HASH.fullmatch(value):
            return value[:8]
        return value if value and not re.search(r"[\s,;]", value) else _cut(f'"{value}"')
    if isinstance(value, list):
        shown = listed(map(plain, value)) or "none"
        return shown if len(value) <= _MAX_ITEMS else f"{len(value)} values"
    return _cut(_json(value))


def number(value: Any) -> str:
    """Format a count with thousands separators and any other value with `plain`."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else plain(value)


def _exact(value: Any) -> str:
    """Format a value as JSON, so that different values look different; hash long values."""
    if value is MISSING:
        return MISSING.value
    text = _json(value)
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[: _MAX_CHARACTERS // 2]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def listed(words: Iterable[str]) -> str:
    """ "a, b, c"."""
    return ", ".join(words)


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return f"{listed(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def contrast(
    values: Mapping[str, Any],
    before: str = "",
    after: str = "",
    *,
    between: Literal[", ", "; "] = ", ",
    show: Callable[[Any], str] | None = plain,
) -> str:
    """List the different values with the labels of the locks that have them.

    Example: "500 training images in A and C, 751 in B, not recorded in D".

    Args:
        values: values by label.
        before: text before the first value.
        after: text after the first value.
        between: separator of the values.
        show: formats a value. JSON is used if it is None or formats different values alike.
    """
    groups = _groups(values)
    shown = [
        plain(value) if value is MISSING or show is None else show(value) for value, _ in groups
    ]
    if show is None or len(set(shown)) < len(shown):
        shown = [_exact(value) for value, _ in groups]
    texts = [f"{text} in {joined(labels)}" for text, (_, labels) in zip(shown, groups, strict=True)]
    if groups[0][0] is not MISSING:
        texts[0] = f"{shown[0]}{after} in {joined(groups[0][1])}"
    return before + between.join(texts)


def _groups(values: Mapping[str, Any]) -> list[tuple[Any, list[str]]]:
    """Group labels by value; labels without a value are last."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    for label, value in values.items():
        groups.setdefault(_json(value), (value, []))[1].append(label)
    return sorted(groups.values(), key=lambda each: each[0] is MISSING)


def exclusive_counts(ids: Mapping[str, Any]) -> str:
    """Format the set differences of two lists ("12 only in A, 3 only in B"), or return ""."""
    groups = _groups(ids)
    if len(groups) != 2 or not all(isinstance(value, list) for value, _ in groups):
        return ""
    sets = [{_json(each) for each in value} for value, _ in groups]
    only = [
        (len(sets[side] - sets[1 - side]), joined(groups[side][1])) for side in range(len(groups))
    ]
    return listed(f"{num:,} only in {labels}" for num, labels in only if num)
