"""Sentences about differences between locks; every differing value is reported."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.protocol.lock_differences import is_test_comparable, lock_differences
from tasks.protocol.lock_values import flat

Lock = dict[str, Any]


def people(ids: range | list[int], *, are_listed: bool = True) -> Lock:
    identities = {"count": len(ids), "sha256": f"{hash(tuple(ids)) % 16**8:064x}"}
    return identities | {"ids": list(ids)} if are_listed else identities


def domain(num_train: int, **facts: Any) -> Lock:
    parts = ("train", "validation_query", "validation_gallery", "test_query", "test_gallery")
    return {
        "variant": "V1",
        "facts": facts,
        "query_by": "image",
        "identities": {
            "train": people(range(1, num_train + 1)),
            "validation": people(range(9000, 9000 + 2)),
            "test": people(range(5000, 5000 + 1234), are_listed=False),
        },
        "num_images": {part: 10_000 + rank for rank, part in enumerate(parts)},
        "num_queries_without_match": {"test": 0, "validation": 0},
        "records_sha256": {part: f"{rank:064x}" for rank, part in enumerate(parts)},
        "contents": {part: contents(rank) for rank, part in enumerate(parts)},
        "description_sha256": None,
    }


def contents(rank: int) -> Lock:
    hashes = {"sizes_sha256": f"{rank + 10:064x}", "sha256": f"{rank + 20:064x}"}
    return {"num_files": 10_000 + rank, "num_bytes": 10**8, "num_hashed": 1000, **hashes}


def photo_lock(num_train: int = 500) -> Lock:
    """Return a new lock in the format of tasks.protocol.lock, of a benchmark of photographs."""
    return {
        "benchmark": "lreid-1",
        "order": ["market1501", "msmt17"],
        "unseen": ["viper"],
        "identity_rule": "500",
        "image_size": [256, 128],
        "camera_rule": "no image by the query's camera",
        "image_decoder": "Pillow, RGB, bicubic resize",
        "reranking": None,
        "generator_version": None,
        "synthetic": None,
        "domains": {
            "market1501": domain(num_train),
            "msmt17": domain(num_train),
            "viper": domain(0, split_index=0, split_source="generated seed 0"),
        },
    }


def synthetic_lock(num_train: int = 500) -> Lock:
    lock = photo_lock(num_train)
    fields = {"seed": 0, "num_train_identities": 64, "height": 64}
    reranking = {"enabled": True, "k1": 20, "weight": 0.3}
    return lock | {"generator_version": 3, "synthetic": fields, "reranking": reranking}


def sentences(**locks: Lock) -> list[str]:
    return [each.sentence for each in lock_differences(locks)]


def changed(change: Callable[[Lock], Any]) -> tuple[list[str], list[str]]:
    """Return sentences and affected aspects of a lock compared with a changed copy."""
    other = photo_lock()
    change(other)
    differences = lock_differences({"A": photo_lock(), "B": other})
    return [each.sentence for each in differences], [each.affects for each in differences]


def of(name: str) -> Callable[[Lock], Lock]:
    return lambda lock: lock["domains"][name]


MARKET, MSMT17, VIPER = of("market1501"), of("msmt17"), of("viper")


@pytest.mark.parametrize(
    ("change", "sentence", "affects"),
    [
        (
            lambda lock: MARKET(lock)["identities"].update(train=people(range(1, 752))),
            "market1501: 500 training identities in A, 751 in B (251 only in B)",
            "people",
        ),
        (
            lambda lock: MARKET(lock)["identities"].update(train=people(range(3, 503))),
            "market1501: 500 training identities each, but different ones "
            "(2 only in A, 2 only in B)",
            "people",
        ),
        (
            lambda lock: MARKET(lock)["num_images"].update(train=12936),
            "market1501: 10,000 training images in A, 12,936 in B",
            "training",
        ),
        (
            lambda lock: MARKET(lock)["records_sha256"].update(train="f" * 64),
            "market1501: different training images, or different ids, cameras or captions of the "
            "same images",
            "training",
        ),
        (
            lambda lock: MARKET(lock).update(description_sha256="ab12cd34" * 8),
            "market1501: description file none in A, ab12cd34 in B",
            "training",
        ),
        (
            lambda lock: MSMT17(lock).update(variant="V2"),
            "msmt17: variant V1 in A, V2 in B",
            "test",
        ),
        (
            lambda lock: MSMT17(lock)["facts"].update(boxes="labeled"),
            "msmt17: boxes labeled in B, not recorded in A",
            "test",
        ),
        (
            lambda lock: MSMT17(lock)["facts"].update(val_in_train=True),
            "msmt17: validation list joins training: yes in B, not recorded in A",
            "conditions",
        ),
        (
            lambda lock: VIPER(lock)["facts"].update(split_index=3),
            "viper: split index 0 in A, 3 in B",
            "conditions",
        ),
        (
            lambda lock: VIPER(lock)["records_sha256"].update(test_gallery="0" * 64),
            "viper: test gallery lists differ",
            "test",
        ),
        (
            lambda lock: VIPER(lock)["identities"].update(test=people(range(9), are_listed=False)),
            "viper: 1,234 test identities in A, 9 in B (the lists differ)",
            "test",
        ),
        (
            lambda lock: VIPER(lock)["num_queries_without_match"].update(test=7),
            "viper: 0 test queries without a match in A, 7 in B",
            "test",
        ),
        (
            lambda lock: VIPER(lock)["num_images"].update(validation_query=3),
            "viper: 10,001 validation queries in A, 3 in B",
            "validation",
        ),
        (
            lambda lock: VIPER(lock).update(query_by="text"),
            "viper: queries by image in A, text in B",
            "test",
        ),
        (
            lambda lock: lock.update(image_size=[384, 128]),
            "image size 256x128 in A, 384x128 in B",
            "conditions",
        ),
        (
            lambda lock: lock.update(reranking={"enabled": True, "k1": 20, "weight": 0.3}),
            "re-ranking off in A, on (k1 20, weight 0.3) in B",
            "test",
        ),
        (
            lambda lock: lock.update(camera_rule="none"),
            'camera rule "no image by the query\'s camera" in A, none in B',
            "test",
        ),
        (
            lambda lock: lock.update(image_decoder="turbo"),
            'image decoder "Pillow, RGB, bicubic resize" in A, turbo in B',
            "conditions",
        ),
        (
            lambda lock: lock.update(generator_version=2),
            "generator version none in A, 2 in B",
            "test",
        ),
        (
            lambda lock: lock.update(synthetic={"seed": 0}),
            "data: photographs in A, synthetic in B",
            "test",
        ),
        (
            lambda lock: lock.update(unseen=["grid"]),
            "unseen domains: viper in A; grid in B",
            "conditions",
        ),
        (
            lambda lock: lock["order"].reverse(),
            "learned in another order: market1501, msmt17 in A; msmt17, market1501 in B",
            "order",
        ),
        (
            lambda lock: lock["order"].pop(),
            "learned domains: market1501, msmt17 in A; market1501 in B",
            "order",
        ),
        (
            lambda lock: lock.update(weather={"sky": "grey, low"}),
            'weather.sky: "grey, low" in B, not recorded in A',
            "test",
        ),
        (
            lambda lock: VIPER(lock).update(height=1.5),
            "viper: height: 1.5 in B, not recorded in A",
            "test",
        ),
        (lambda lock: lock["domains"].pop("viper"), "viper: described in A, not in B", "test"),
    ],
)
def test_sentence_of_one_difference(change, sentence, affects):
    assert changed(change) == ([sentence], [affects])


def test_benchmark_differences_precede_domain_differences():
    other = photo_lock() | {"benchmark": "custom", "identity_rule": "all"}
    VIPER(other)["facts"]["split_index"] = 3
    VIPER(other)["records_sha256"] |= {"test_query": "a" * 64, "test_gallery": "b" * 64}
    MSMT17(other)["identities"]["train"] = people(range(1, 1042))
    assert sentences(here=photo_lock(), there=other) == [
        "benchmark lreid-1 in here, custom in there",
        "rule for training identities: 500 in here, all in there",
        "msmt17: 500 training identities in here, 1,041 in there (541 only in there)",
        "viper: split index 0 in here, 3 in there",
        "viper: test query and gallery lists differ",
    ]


def test_generator_settings():
    other = synthetic_lock()
    other["synthetic"] |= {"seed": 1, "num_train_identities": 32}
    (seed,) = lock_differences({"A": synthetic_lock(), "B": other})
    assert seed.text == "synthetic data: num_train_identities 64 in A, 32 in B; seed 0 in A, 1 in B"
    assert seed.affects == "test"
    other["synthetic"]["seed"] = 0
    assert [each.affects for each in lock_differences({"A": synthetic_lock(), "B": other})] == [
        "conditions"
    ]


def test_more_than_two_locks():
    locks = {name: photo_lock() for name in "ABCD"}
    MARKET(locks["B"])["identities"]["train"] = people(range(1, 752))
    MARKET(locks["D"])["identities"]["train"] = people(range(1, 752))
    locks["C"]["reranking"] = {"k1": 20}
    del locks["D"]["image_decoder"]
    assert sentences(**locks) == [
        'image decoder "Pillow, RGB, bicubic resize" in A, B and C, not recorded in D',
        "re-ranking off in A, B and D, on (k1 20) in C",
        "market1501: 500 training identities in A and C, 751 in B and D (251 only in B and D)",
    ]


def test_missing_domains_are_not_compared():
    locks = {name: photo_lock() for name in "ABC"}
    locks["A"]["unseen"] = []
    del locks["A"]["domains"]["viper"]
    VIPER(locks["C"])["variant"] = "V2"
    assert sentences(**locks) == [
        "unseen domains: none in A; viper in B and C",
        "viper: variant V1 in B, V2 in C",
    ]


def test_similar_values_are_written_in_full():
    one, other = photo_lock(), photo_lock()
    VIPER(one)["description_sha256"] = "ab12cd34" + "0" * 56
    VIPER(other)["description_sha256"] = "ab12cd34" + "1" * 56
    (sentence,) = sentences(A=one, B=other)
    assert "0" * 56 in sentence
    assert "1" * 56 in sentence
    one, other = photo_lock() | {"notes": "x" * 500}, photo_lock() | {"notes": "x" * 499}
    (sentence,) = sentences(A=one, B=other)
    first, second = re.findall(r"\((\w{8})\) in [AB]", sentence)
    assert first != second
    assert len(sentence) < 200


def test_is_test_comparable():
    other = photo_lock()
    VIPER(other)["records_sha256"]["test_query"] = "a" * 64
    MARKET(other)["identities"]["train"] = people(range(9))
    differences = lock_differences({"A": photo_lock(), "B": other})
    affected = [
        name
        for name in ("market1501", "msmt17", "viper")
        if not is_test_comparable(differences, name)
    ]
    assert affected == ["viper"]
    differences = lock_differences({"A": photo_lock(), "B": photo_lock() | {"camera_rule": ""}})
    assert not any(
        is_test_comparable(differences, name) for name in ("market1501", "msmt17", "viper")
    )


PLAIN = st.none() | st.booleans() | st.integers(-2, 1200) | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def replaced(lock: Lock, path: tuple[str, ...], value: Any) -> Lock:
    other = copy.deepcopy(lock)
    parent = other
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return other


def removed(lock: Lock, path: tuple[str, ...]) -> Lock:
    other = copy.deepcopy(lock)
    parent = other
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return other


def branches(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all mappings."""
    if not isinstance(value, dict):
        return []
    return [path] + [each for key in value for each in branches(value[key], (*path, key))]


def as_json(lock: Lock) -> str:
    return json.dumps(lock, sort_keys=True)


LOCKS = [photo_lock(3), synthetic_lock(3)]
LEAVES = [(lock, path) for lock in LOCKS for path in flat(lock)]
NODES = [(lock, path) for lock in LOCKS for path in (*flat(lock), *branches(lock)) if path]
BRANCHES = [(lock, path) for lock in LOCKS for path in branches(lock)]


def check_reported(lock: Lock, other: Lock) -> None:
    """Check that locks have differences if and only if they are unequal."""
    for pair in ({"A": lock, "B": other}, {"A": other, "B": lock}):
        differences = lock_differences(pair)
        assert bool(differences) == (as_json(lock) != as_json(other))
        assert all(each.text and each.paths for each in differences)
        assert len({each.sentence for each in differences}) == len(differences)
        assert lock_differences({**pair, "C": pair["A"]}) != [] or not differences


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(LEAVES), JSON)
def test_every_changed_value_is_reported(leaf, value):
    lock, path = leaf
    check_reported(lock, replaced(lock, path, value))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(BRANCHES), st.text(), JSON.filter(lambda value: value != {}))
def test_every_added_value_is_reported(branch, key, value):
    lock, path = branch
    check_reported(lock, replaced(lock, (*path, key), value))


def test_every_removed_value_is_reported():
    for lock, path in NODES:
        if path[-1] != "contents":
            check_reported(lock, removed(lock, path))


@pytest.mark.parametrize("domain_name", ["market1501", "viper"])
def test_contents_are_compared_only_where_recorded(domain_name: str) -> None:
    lock = photo_lock()
    path = ("domains", domain_name, "contents")
    older = removed(lock, path)
    assert sentences(A=lock, B=older) == sentences(A=older, B=lock) == []
    other = replaced(lock, (*path, "test_gallery", "sha256"), "f" * 64)
    assert sentences(A=older, B=other) == []
    expected = f"{domain_name}: test gallery images with other contents under the same names"
    assert sentences(A=lock, B=other) == sentences(A=lock, B=other, C=older) == [expected]
    assert not is_test_comparable(lock_differences({"A": lock, "B": other}), domain_name)
    other = replaced(lock, (*path, "train", "num_bytes"), 1)
    (difference,) = lock_differences({"A": lock, "B": other})
    assert (difference.affects, "training images" in difference.text) == ("training", True)


@given(st.sampled_from(LEAVES), st.sampled_from(LEAVES), PLAIN, PLAIN)
def test_two_changes_are_reported(first, second, one, other):
    lock = first[0]
    both = replaced(lock, first[1], one)
    if second[0] is lock:
        both = replaced(both, second[1], other)
    check_reported(lock, both)


def test_order_of_keys_is_irrelevant():
    lock = synthetic_lock()
    assert sentences(A=lock, B=json.loads(as_json(lock))) == []
