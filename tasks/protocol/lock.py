"""The protocol lock: all that two results must share to be comparable, as plain JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tasks.schema import Benchmark, Domain, RawDomain, Record, Split
from tasks.synthetic import GENERATOR_VERSION

CAMERA_RULE = "images of the query's person by the query's camera are left out of its gallery"


def protocol_lock(
    *,
    benchmark: str,
    identity_rule: str,
    image_size: tuple[int, int],
    pinned: Mapping[str, Any],
    seen: Sequence[tuple[RawDomain, Domain]],
    unseen: Sequence[tuple[RawDomain, Domain]],
    synthetic: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Pins a loaded benchmark; holds no path of the machine it was made on.

    Args:
        benchmark: its name.
        identity_rule: how training identities were chosen, in words.
        image_size: (height, width) in pixels at which images are decoded.
        pinned: further plain values that two results must share.
        seen: each domain of the lifelong order as its reader found it and as it is learned.
        unseen: the same for the domains that are only tested.
        synthetic: fields of the generator if the people are drawn, else None.
    """
    return {
        "benchmark": benchmark,
        "order": [domain.name for _, domain in seen],
        "unseen": [domain.name for _, domain in unseen],
        "identity_rule": identity_rule,
        "image_size": list(image_size),
        "camera_rule": CAMERA_RULE,
        **pinned,
        "generator_version": None if synthetic is None else GENERATOR_VERSION,
        "synthetic": None if synthetic is None else dict(synthetic),
        "domains": {domain.name: _lock_domain(raw, domain) for raw, domain in (*seen, *unseen)},
    }


def num_queries_without_match(split: Split) -> int:
    """Queries without a match in their gallery; a ranking does not count them.

    Image queries need their person by another camera, text queries their person.
    """
    if split.query_by == "text":
        found = {record.person_id for record in split.gallery}
        return sum(1 for record in split.query if record.person_id not in found)
    seen_by: dict[int, set[int]] = {}
    for record in split.gallery:
        seen_by.setdefault(record.person_id, set()).add(record.camera_id)
    return sum(
        1 for record in split.query if not seen_by.get(record.person_id, set()) - {record.camera_id}
    )


def trained_test_people(lock: Mapping[str, Any], benchmark: Benchmark) -> dict[str, list[int]]:
    """Test people of `benchmark` that a run under `lock` has trained on, by domain.

    They are found by data set and person id, so two releases of one data set that number their
    people differently, and people that two data sets share, go unnoticed.
    """
    leaked: dict[str, list[int]] = {}
    for domain in benchmark.domains:
        if domain.name in lock["order"]:
            trained = lock["domains"][domain.name]["identities"]["train"]["ids"]
            if common := _ids(domain.test) & set(trained):
                leaked[domain.name] = sorted(common)
    return leaked


def _lock_domain(raw: RawDomain, domain: Domain) -> dict[str, Any]:
    # As the reader found them: contiguous ids and described parts are not the data set's own.
    own = {record.image_path: record for record in raw.train}
    train = [own[record.image_path] for record in domain.train]
    splits = {"validation": domain.validation, "test": domain.test}
    images: dict[str, Sequence[Record]] = {"train": train}
    for name, split in splits.items():
        images |= {f"{name}_query": split.query, f"{name}_gallery": split.gallery}
    return {
        "variant": raw.variant,
        "facts": dict(raw.facts),
        "query_by": raw.test.query_by,
        "identities": {
            "train": _lock_ids({record.person_id for record in train}, listed=True),
            "validation": _lock_ids(_ids(domain.validation), listed=True),
            "test": _lock_ids(_ids(domain.test), listed=False),
        },
        "num_images": {name: len(records) for name, records in images.items()},
        "num_queries_without_match": {
            name: num_queries_without_match(split) for name, split in splits.items()
        },
        "records_sha256": {name: _hash_records(raw, records) for name, records in images.items()},
        "description_sha256": (
            hashlib.sha256(raw.description_file.read_bytes()).hexdigest()
            if raw.description_file is not None
            else None
        ),
    } | _lock_dual(raw)


def _lock_dual(raw: RawDomain) -> dict[str, Any]:
    """Nothing where there are no dual texts: what they could change is as it was before them."""
    if raw.dual_file is None:
        return {}
    return {"dual_sha256": hashlib.sha256(raw.dual_file.read_bytes()).hexdigest()}


def _ids(split: Split) -> set[int]:
    return {record.person_id for record in (*split.query, *split.gallery)}


def _lock_ids(person_ids: Iterable[int], *, listed: bool) -> dict[str, Any]:
    ordered = sorted(person_ids)
    lock: dict[str, Any] = {
        "count": len(ordered),
        "sha256": _hash_lines(str(person_id) for person_id in ordered),
    }
    return lock | {"ids": ordered} if listed else lock


def _hash_records(raw: RawDomain, records: Iterable[Record]) -> str:
    """Over path below the data set's folder, the data set's person id, camera and captions."""
    return _hash_lines(
        sorted(
            "\t".join(
                (
                    PurePath(record.image_path).relative_to(raw.folder).as_posix(),
                    str(record.person_id),
                    str(record.camera_id),
                    *record.captions,
                )
            )
            for record in records
        )
    )


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
