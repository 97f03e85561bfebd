"""Values of protocol locks, compared as JSON and shown in a few words."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

KeyPath = tuple[str, ...]
"""Keys that lead to a value, from the outermost."""

_LONGEST, _MOST_SHOWN = 100, 12
_HASH = re.compile(r"[0-9a-f]{64}")


class _Missing(enum.Enum):
    MISSING = "not recorded"


MISSING: Final = _Missing.MISSING
"""What `at` finds where there is nothing."""


def flat(value: Any) -> dict[KeyPath, Any]:
    """Every leaf by its path; lists and empty mappings are leaves."""
    return dict(_leaves(value, ()))


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def at(value: Any, path: KeyPath) -> Any:
    """What is at a path, `MISSING` if nothing is."""
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value


def same(values: Iterable[Any]) -> bool:
    """Whether all values are written alike in JSON (so 1, 1.0 and true are three)."""
    return len({_written(value) for value in values}) <= 1


def _written(value: Any) -> str:
    return "" if value is MISSING else json.dumps(value, sort_keys=True)


def plain(value: Any) -> str:
    """A value as a person would say it; long ones are cut, hashes to eight digits."""
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
        return shown if len(value) <= _MOST_SHOWN else f"{len(value)} values"
    return _cut(_written(value))


def number(value: Any) -> str:
    """A count with its thousands set apart; anything else plainly."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else plain(value)


def _exact(value: Any) -> str:
    """The value's JSON, so that no two values look alike; long ones end in a hash."""
    if value is MISSING:
        return MISSING.value
    text = _written(value)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


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
    """Who has what: "500 training images in A and C, 751 in B, not recorded in D".

    Args:
        values: by label.
        before: stands before the first value.
        after: stands after the first value.
        between: separates the values.
        show: how a value is shown; None, or two different values that look alike: their JSON.
    """
    groups = _groups(values)
    shown = [
        plain(value) if value is MISSING or show is None else show(value) for value, _ in groups
    ]
    if show is None or len(set(shown)) < len(shown):
        shown = [_exact(value) for value, _ in groups]
    said = [f"{text} in {joined(labels)}" for text, (_, labels) in zip(shown, groups, strict=True)]
    if groups[0][0] is not MISSING:
        said[0] = f"{shown[0]}{after} in {joined(groups[0][1])}"
    return before + between.join(said)


def _groups(values: Mapping[str, Any]) -> list[tuple[Any, list[str]]]:
    """Different values with the labels that have them; labels that have none come last."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    for label, value in values.items():
        groups.setdefault(_written(value), (value, []))[1].append(label)
    return sorted(groups.values(), key=lambda each: each[0] is MISSING)


def who_has_more(ids: Mapping[str, Any]) -> str:
    """ "12 only in A, 3 only in B" of two different lists; "" where that cannot be said."""
    groups = _groups(ids)
    if len(groups) != 2 or not all(isinstance(value, list) for value, _ in groups):
        return ""
    sets = [{_written(each) for each in value} for value, _ in groups]
    only = [
        (len(sets[side] - sets[1 - side]), joined(groups[side][1])) for side in range(len(groups))
    ]
    return listed(f"{num:,} only in {labels}" for num, labels in only if num)
