"""What differs between protocol locks, in words.

Every value of a lock belongs to exactly one topic, and a topic in which locks differ gives one
`Difference`. What no topic knows is said by its path and its values, so nothing differs silently.
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
"""Locks by the label that sentences give them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which locks differ.

    Attributes:
        domain: the domain it is about; None if it is about all of them.
        affects: what it touches.
        text: the words, with the labels of the locks.
        paths: dotted paths of the values that differ.
    """

    domain: str | None
    affects: Affects
    text: str
    paths: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The words with the domain before them."""
        return self.text if self.domain is None else f"{self.domain}: {self.text}"


def lock_differences(locks: Locks) -> list[Difference]:
    """All differences of some locks: those of the whole benchmark first, then domain by domain.

    Equal locks give none. Any other value, or one that only some locks have, gives at least one;
    a domain that some locks lack is compared among those that have it.
    """
    found: dict[_Topic, list[KeyPath]] = {}
    for path in _all_paths(locks):
        values = [at(locks[label], path) for label in _holders(locks, path)]
        # Where one lock has a subtree and another does not, the values below it say so.
        if not same(values) and not any(isinstance(each, Mapping) and each for each in values):
            found.setdefault(_topic(path), []).append(path)
    differences = [_difference(topic, locks, paths) for topic, paths in found.items()]
    differences += _undescribed_domains(locks)
    ranks = _domain_ranks(locks)
    return sorted(differences, key=lambda each: ranks.get(each.domain, len(ranks)))


def is_tested_alike(differences: Iterable[Difference], domain: str) -> bool:
    """Whether scores on a domain compare: the same images are ranked, in the same way."""
    about = [each for each in differences if each.domain in (None, domain)]
    return all(each.affects != "test" for each in about)


@dataclass(frozen=True, slots=True)
class _Topic:
    """Values that are said together: what they are about, the phrase's name, where they are."""

    domain: str | None
    name: str
    path: KeyPath


def _topic(path: KeyPath) -> _Topic:
    if path[0] != "domains" or len(path) == 2:
        known = path[0] in BENCHMARK_PHRASES and path[0] != OTHER
        return _Topic(None, path[0], path[:1]) if known else _Topic(None, OTHER, path)
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
        parts={label: at(locks[label], above) for label in _holders(locks, paths[0])},
        differing=frozenset(path[len(above) :] for path in paths),
        path=topic.path,
    )
    affects, text = phrases[topic.name](view)
    return Difference(topic.domain, affects, text, tuple(".".join(path) for path in paths))


def _all_paths(locks: Locks) -> list[KeyPath]:
    """Every path, in the order in which the topics are said."""
    names = [*BENCHMARK_PHRASES, *DOMAIN_PHRASES]
    paths = {path for lock in locks.values() for path in flat(lock)}
    return sorted(paths, key=lambda path: (names.index(_topic(path).name), path))


def _holders(locks: Locks, path: KeyPath) -> list[str]:
    """Labels of the locks that are asked for a path: about a domain, those that have the domain."""
    if path[0] != "domains" or len(path) == 1:
        return list(locks)
    return [label for label, lock in locks.items() if at(lock, path[:2]) is not MISSING]


def _undescribed_domains(locks: Locks) -> list[Difference]:
    """Domains that only some locks describe, where order and unseen domains do not say so."""
    differences: list[Difference] = []
    for domain in sorted({name for lock in locks.values() for name in _described(lock)}):
        having = [label for label, lock in locks.items() if domain in _described(lock)]
        lacking = [label for label in locks if label not in having]
        explained = all((domain in _named(locks[label])) == (label in having) for label in locks)
        if lacking and not explained:
            text = f"described in {joined(having)}, not in {joined(lacking)}"
            differences.append(Difference(domain, "test", text, (f"domains.{domain}",)))
    return differences


def _described(lock: Mapping[str, Any]) -> list[str]:
    domains = lock.get("domains")
    return list(domains) if isinstance(domains, Mapping) else []


def _named(lock: Mapping[str, Any]) -> list[str]:
    """Domains by `order` and `unseen`."""
    lists = [lock.get(name) for name in ("order", "unseen")]
    return [plain(name) for each in lists if isinstance(each, list) for name in each]


def _domain_ranks(locks: Locks) -> dict[str | None, int]:
    """What is said first: the whole benchmark, then the domains as the locks name them."""
    names = [name for lock in locks.values() for name in (*_named(lock), *_described(lock))]
    return {name: rank for rank, name in enumerate(dict.fromkeys([None, *names]))}
