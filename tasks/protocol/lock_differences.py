"""Readable differences between protocol locks.

Every value of a lock belongs to exactly one topic, and each topic with differing values gives one
`Difference`. Values without a topic are reported by path and value, so no difference is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.protocol.lock_phrases import (
    BENCHMARK_PHRASES,
    DOMAIN_PHRASES,
    DOMAIN_TOPICS,
    OTHER,
    Affects,
    View,
)
from tasks.protocol.lock_values import MISSING, KeyPath, at, flat, joined, plain, same

Locks = Mapping[str, Mapping[str, Any]]
"""Locks by the label used in sentences."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One topic in which locks differ.

    Attributes:
        domain: affected domain, or None for the whole benchmark.
        affects: what the difference affects.
        text: description with the labels of the locks.
        paths: dotted paths of the differing values.
    """

    domain: str | None
    affects: Affects
    text: str
    paths: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Description with the domain as prefix."""
        return self.text if self.domain is None else f"{self.domain}: {self.text}"


def lock_differences(locks: Locks) -> list[Difference]:
    """Return all differences between locks: of the whole benchmark first, then by domain.

    The list is empty if and only if the locks are equal. A domain that only some locks have is
    compared among these; likewise the contents of files, which older locks do not record.
    """
    differing: dict[_Topic, list[KeyPath]] = {}
    for path in _all_paths(locks):
        values = [at(locks[label], path) for label in _compared(locks, path)]
        # A subtree that only some locks have is reported by the values below it.
        if not same(values) and not any(isinstance(each, Mapping) and each for each in values):
            differing.setdefault(_topic(path), []).append(path)
    differences = [_difference(topic, locks, paths) for topic, paths in differing.items()]
    differences += _undescribed_domains(locks)
    ranks = _domain_ranks(locks)
    return sorted(differences, key=lambda each: ranks.get(each.domain, len(ranks)))


def is_test_comparable(differences: Iterable[Difference], domain: str) -> bool:
    """Return whether scores on a domain are comparable: same test images, same ranking."""
    relevant = [each for each in differences if each.domain in (None, domain)]
    return all(each.affects != "test" for each in relevant)


@dataclass(frozen=True, slots=True)
class _Topic:
    """Values described together: their domain, the name of the phrase, and their path."""

    domain: str | None
    name: str
    path: KeyPath


def _topic(path: KeyPath) -> _Topic:
    if path[0] != "domains" or len(path) == 2:
        has_phrase = path[0] in BENCHMARK_PHRASES and path[0] != OTHER
        return _Topic(None, path[0], path[:1]) if has_phrase else _Topic(None, OTHER, path)
    if len(path) == 1:
        return _Topic(None, OTHER, path)
    domain, below = path[1], path[2:]
    if below[0] == "facts" and len(below) > 1:
        return _Topic(domain, "fact", below[1:2])
    for start, name in DOMAIN_TOPICS.items():
        if below[: len(start)] == start:
            return _Topic(domain, name, (name,))
    return _Topic(domain, OTHER, below)


def _difference(topic: _Topic, locks: Locks, paths: Sequence[KeyPath]) -> Difference:
    above = () if topic.domain is None else ("domains", topic.domain)
    phrases = BENCHMARK_PHRASES if topic.domain is None else DOMAIN_PHRASES
    view = View(
        parts={label: at(locks[label], above) for label in _compared(locks, paths[0])},
        differing=frozenset(path[len(above) :] for path in paths),
        path=topic.path,
    )
    affects, text = phrases[topic.name](view)
    return Difference(topic.domain, affects, text, tuple(".".join(path) for path in paths))


def _all_paths(locks: Locks) -> list[KeyPath]:
    """Return all paths in the display order of their topics."""
    names = [*BENCHMARK_PHRASES, *DOMAIN_PHRASES]
    paths = {path for lock in locks.values() for path in flat(lock)}
    return sorted(paths, key=lambda path: (names.index(_topic(path).name), path))


def _compared(locks: Locks, path: KeyPath) -> list[str]:
    """Return the labels of the locks compared at a path: for a domain, those that have it."""
    if path[0] != "domains" or len(path) == 1:
        return list(locks)
    depth = 3 if path[2:3] == ("contents",) else 2
    return [label for label, lock in locks.items() if at(lock, path[:depth]) is not MISSING]


def _undescribed_domains(locks: Locks) -> list[Difference]:
    """Report domains in only some locks, unless order and unseen domains already show it."""
    differences: list[Difference] = []
    for domain in sorted({name for lock in locks.values() for name in _described(lock)}):
        present = [label for label, lock in locks.items() if domain in _described(lock)]
        absent = [label for label in locks if label not in present]
        explained = all((domain in _named(locks[label])) == (label in present) for label in locks)
        if absent and not explained:
            text = f"described in {joined(present)}, not in {joined(absent)}"
            differences.append(Difference(domain, "test", text, (f"domains.{domain}",)))
    return differences


def _described(lock: Mapping[str, Any]) -> list[str]:
    domains = lock.get("domains")
    return list(domains) if isinstance(domains, Mapping) else []


def _named(lock: Mapping[str, Any]) -> list[str]:
    """Return the domains in `order` and `unseen`."""
    lists = [lock.get(name) for name in ("order", "unseen")]
    return [plain(name) for each in lists if isinstance(each, list) for name in each]


def _domain_ranks(locks: Locks) -> dict[str | None, int]:
    """Ranks for sorting: the whole benchmark, then domains in the order of the locks."""
    names = [name for lock in locks.values() for name in (*_named(lock), *_described(lock))]
    return {name: rank for rank, name in enumerate(dict.fromkeys([None, *names]))}
