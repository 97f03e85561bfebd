"""Descriptions of differing lock values and of what each difference affects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.protocol.lock_values import (
    MISSING,
    KeyPath,
    at,
    contrast,
    exclusive_counts,
    listed,
    number,
    plain,
    same,
)

Affects = Literal["test", "people", "training", "order", "validation", "conditions"]
"""What a difference affects.

test: test images or ranking, so scores are not comparable. people: training identities.
training: other training data. order: seen domains or their order. validation: validation data.
conditions: none of these.
"""

OTHER = "other"
"""Topic of values without a topic of their own."""

_HASHED_FACTS = frozenset(
    {
        *("split_index", "split_sha256", "split_source", "num_splits"),
        *("num_training_captions", "train_rule", "val_in_train"),
        *("style_method", "style_encoder", "style_weights", "text_writer"),
    }
)
"""Facts that affect only images or texts, whose hashes are compared separately."""

_SIZES_BY_DOMAIN = frozenset(
    {
        *("num_seen_domains", "num_unseen_domains"),
        *("num_train_identities", "num_unseen_validation_identities"),
    }
)
"""Generator settings that do not change the test images."""

_FACT_NAMES = {
    "num_splits": "number of splits",
    "split_sha256": "split content",
    "val_in_train": "validation list joins training:",
}


@dataclass(frozen=True, slots=True)
class View:
    """Input of a phrase: the compared parts of the locks.

    Attributes:
        parts: the whole lock or its part about one domain, by label.
        differing: paths in `parts` that differ.
        path: path of the value, for topics with a single value.
    """

    parts: Mapping[str, Any]
    differing: frozenset[KeyPath]
    path: KeyPath

    def values(self, *path: str) -> dict[str, Any]:
        """Return the value or subtree at a path of each lock."""
        return {label: at(part, path) for label, part in self.parts.items()}

    def differs(self, *path: str) -> bool:
        """Return whether a value at or below a path differs."""
        return any(each[: len(path)] == path for each in self.differing)


Phrase = Callable[[View], tuple[Affects, str]]


def _simple(affects: Affects, words: str) -> Phrase:
    """Phrase for a single value: "benchmark lreid-1 in A, custom in B"."""
    return lambda view: (affects, contrast(view.values(*view.path), before=f"{words} "))


def _other(view: View) -> tuple[Affects, str]:
    """Phrase with path and values; affects "test" because the effect is unknown."""
    return "test", contrast(view.values(*view.path), f"{'.'.join(view.path)}: ", show=None)


def _order(view: View) -> tuple[Affects, str]:
    orders = view.values("order")
    sets = [sorted(map(plain, each)) if isinstance(each, list) else [] for each in orders.values()]
    words = "learned in another order: " if same(sets) else "learned domains: "
    return "order", contrast(orders, words, between="; ")


def _unseen(view: View) -> tuple[Affects, str]:
    return "conditions", contrast(view.values("unseen"), "unseen domains: ", between="; ")


def _image_size(view: View) -> tuple[Affects, str]:
    def show(value: Any) -> str:
        return "x".join(map(plain, value)) if isinstance(value, list) and value else plain(value)

    return "conditions", contrast(view.values("image_size"), "image size ", show=show)


def _reranking(view: View) -> tuple[Affects, str]:
    def show(value: Any) -> str:
        if not isinstance(value, Mapping):
            return "off" if value is None else plain(value)
        state = "off" if value.get("enabled") is False else "on"
        fields = (f"{key} {plain(each)}" for key, each in value.items() if key != "enabled")
        return f"{state} ({listed(fields)})"

    return "test", contrast(view.values("reranking"), "re-ranking ", show=show)


def _evaluation_protocol(view: View) -> tuple[Affects, str]:
    # Only locks of another protocol record it.
    values = {
        label: "standard" if value is MISSING else value
        for label, value in view.values("evaluation_protocol").items()
    }
    return "test", contrast(values, "evaluation protocol ")


def _synthetic(view: View) -> tuple[Affects, str]:
    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return "synthetic"
        return "photographs" if value is None else plain(value)

    settings = view.values("synthetic")
    if not all(isinstance(each, Mapping) for each in settings.values()):
        return "test", contrast(settings, "data: ", show=show)
    fields = sorted({path[1] for path in view.differing})
    text = "; ".join(contrast(view.values("synthetic", each), f"{each} ") for each in fields)
    affects = "conditions" if set(fields) <= _SIZES_BY_DOMAIN else "test"
    return affects, f"synthetic data: {text}"


def _fact(view: View) -> tuple[Affects, str]:
    name = view.path[0]
    words = _FACT_NAMES.get(name, name.replace("_", " "))
    affects = "conditions" if name in _HASHED_FACTS else "test"
    return affects, contrast(view.values("facts", name), f"{words} ")


def _train(view: View) -> tuple[Affects, str]:
    texts = _people(view, "train", "training")
    affects = "people" if texts else "training"
    if view.differs("num_images", "train"):
        texts.append(_count(view, ("num_images", "train"), "training images"))
    if (
        not texts
        and not view.differs("records_sha256", "train")
        and view.differs("contents", "train")
    ):
        texts.append("training images with other contents under the same names")
    default = "different training images, or different ids, cameras or captions of the same images"
    return affects, "; ".join(texts or [default])


def _dual(view: View) -> tuple[Affects, str]:
    """Phrase for the file of dual texts; texts in styles belong to the compared methods."""
    methods = view.values("facts", "style_method").values()
    affects = "test" if MISSING in methods else "training"
    words = "file of identity and clothing descriptions "
    return affects, contrast(view.values("dual_sha256"), words)


def _split(kind: Literal["test", "validation"]) -> Phrase:
    """Phrase for queries and gallery of the test or validation split."""
    counts: Mapping[KeyPath, str] = {
        ("num_images", f"{kind}_query"): f"{kind} queries",
        ("num_images", f"{kind}_gallery"): f"{kind} gallery images",
        ("num_queries_without_match", kind): f"{kind} queries without a match",
    }

    def phrase(view: View) -> tuple[Affects, str]:
        parts = ("query", "gallery")
        lists = [part for part in parts if view.differs("records_sha256", f"{kind}_{part}")]
        texts = [f"{kind} {' and '.join(lists)} lists differ"] if lists else []
        changed = [
            part
            for part in parts
            if part not in lists and view.differs("contents", f"{kind}_{part}")
        ]
        if changed:
            names = " and ".join(changed)
            texts.append(f"{kind} {names} images with other contents under the same names")
        texts += _people(view, kind, kind)
        texts += [
            _count(view, path, words) for path, words in counts.items() if view.differs(*path)
        ]
        return kind, "; ".join(texts)

    return phrase


def _people(view: View, kind: str, words: str) -> list[str]:
    """Describe differing identities with counts and set differences; [] if they are equal."""
    if not view.differs("identities", kind):
        return []
    more = exclusive_counts(view.values("identities", kind, "ids")) or "the lists differ"
    counts = view.values("identities", kind, "count")
    if same(counts.values()):
        each = number(next(iter(counts.values())))
        return [f"{each} {words} identities each, but different ones ({more})"]
    return [f"{_count(view, ('identities', kind, 'count'), f'{words} identities')} ({more})"]


def _count(view: View, path: KeyPath, words: str) -> str:
    return contrast(view.values(*path), after=f" {words}", show=number)


BENCHMARK_PHRASES: Mapping[str, Phrase] = {
    "benchmark": _simple("conditions", "benchmark"),
    "order": _order,
    "unseen": _unseen,
    "identity_rule": _simple("conditions", "rule for training identities:"),
    "image_size": _image_size,
    "image_decoder": _simple("conditions", "image decoder"),
    "camera_rule": _simple("test", "camera rule"),
    "reranking": _reranking,
    "evaluation_protocol": _evaluation_protocol,
    "generator_version": _simple("test", "generator version"),
    "synthetic": _synthetic,
    OTHER: _other,
}
"""Phrases by top-level key of a lock, in display order."""

DOMAIN_PHRASES: Mapping[str, Phrase] = {
    "variant": _simple("test", "variant"),
    "fact": _fact,
    "query_by": _simple("test", "queries by"),
    "train": _train,
    "description_sha256": _simple("training", "description file"),
    "dual_sha256": _dual,
    "test": _split("test"),
    "validation": _split("validation"),
    OTHER: _other,
}
"""Phrases by topic of a domain, in display order."""

DOMAIN_TOPICS: Mapping[KeyPath, str] = {
    ("variant",): "variant",
    ("query_by",): "query_by",
    ("description_sha256",): "description_sha256",
    ("dual_sha256",): "dual_sha256",
    ("identities", "train"): "train",
    ("num_images", "train"): "train",
    ("records_sha256", "train"): "train",
    ("contents", "train"): "train",
    **{
        path: kind
        for kind in ("test", "validation")
        for path in (
            ("identities", kind),
            ("num_images", f"{kind}_query"),
            ("num_images", f"{kind}_gallery"),
            ("num_queries_without_match", kind),
            ("records_sha256", f"{kind}_query"),
            ("records_sha256", f"{kind}_gallery"),
            ("contents", f"{kind}_query"),
            ("contents", f"{kind}_gallery"),
        )
    },
}
"""Topics of paths in a domain, by path prefix; each fact is a separate topic."""
