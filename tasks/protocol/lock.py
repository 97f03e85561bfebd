"""Protocol lock: JSON with everything that comparable results must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tasks.protocol.contents import DomainContents, lock_contents
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
    contents: Mapping[str, DomainContents],
) -> dict[str, Any]:
    """Create the lock of a loaded benchmark; contains no machine-specific path.

    Args:
        benchmark: name of the benchmark.
        identity_rule: rule that selected the training identities, as text.
        image_size: (height, width) of decoded images in pixels.
        pinned: further JSON values that comparable results must share.
        seen: each domain of the lifelong order, as read and as used for training.
        unseen: the same for the domains that are only tested.
        synthetic: generator settings for synthetic data, otherwise None.
        contents: contents of the files of `locked_images` by domain.
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
        "domains": {
            domain.name: _lock_domain(raw, domain, contents[domain.name])
            for raw, domain in (*seen, *unseen)
        },
    }


def lock_hash(lock: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a protocol lock."""
    return hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()


def has_contents(lock: Mapping[str, Any]) -> bool:
    """Return whether the lock records the contents of all files; older versions did not."""
    return all("contents" in domain for domain in lock.get("domains", {}).values())


def without_contents(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lock without the contents of files."""
    domains = {
        name: {key: value for key, value in domain.items() if key != "contents"}
        for name, domain in lock["domains"].items()
    }
    return {**lock, "domains": domains}


def num_queries_without_match(split: Split) -> int:
    """Count queries without a match in the gallery; evaluation excludes them."""
    return len(queries_without_match(split))


def queries_without_match(split: Split) -> list[Record]:
    """Return the queries without a match in the gallery.

    A match of an image query shows the same person by another camera; a match of a text query
    shows the same person.
    """
    if split.query_by == "text":
        gallery_ids = {record.person_id for record in split.gallery}
        return [record for record in split.query if record.person_id not in gallery_ids]
    cameras: dict[int, set[int]] = {}
    for record in split.gallery:
        cameras.setdefault(record.person_id, set()).add(record.camera_id)
    return [
        record
        for record in split.query
        if not cameras.get(record.person_id, set()) - {record.camera_id}
    ]


def leaked_test_identities(lock: Mapping[str, Any], benchmark: Benchmark) -> dict[str, list[int]]:
    """Return test identities of `benchmark` that a run with `lock` was trained on, by domain.

    Identities are compared by data set and person id. Overlaps between two data sets, or between
    releases with different numbering, are not detected.
    """
    leaked: dict[str, list[int]] = {}
    for domain in benchmark.domains:
        if domain.name in lock["order"]:
            trained = lock["domains"][domain.name]["identities"]["train"]["ids"]
            if common := _ids(domain.test) & set(trained):
                leaked[domain.name] = sorted(common)
    return leaked


def locked_images(raw: RawDomain, domain: Domain) -> dict[str, Sequence[Record]]:
    """Return the records of a domain that enter the lock, by list.

    They are as read: contiguous ids and attached descriptions depend on settings.
    """
    as_read = {record.image_path: record for record in raw.train}
    images: dict[str, Sequence[Record]] = {
        "train": [as_read[record.image_path] for record in domain.train]
    }
    for name, split in _splits(domain).items():
        images |= {f"{name}_query": split.query, f"{name}_gallery": split.gallery}
    return images


def _splits(domain: Domain) -> dict[str, Split]:
    return {"validation": domain.validation, "test": domain.test}


def _lock_domain(raw: RawDomain, domain: Domain, contents: DomainContents) -> dict[str, Any]:
    images = locked_images(raw, domain)
    return {
        "variant": raw.variant,
        "facts": dict(raw.facts),
        "query_by": raw.test.query_by,
        "identities": {
            "train": _lock_ids({record.person_id for record in images["train"]}, listed=True),
            "validation": _lock_ids(_ids(domain.validation), listed=True),
            "test": _lock_ids(_ids(domain.test), listed=False),
        },
        "num_images": {name: len(records) for name, records in images.items()},
        "num_queries_without_match": {
            name: num_queries_without_match(split) for name, split in _splits(domain).items()
        },
        "records_sha256": {name: _hash_records(raw, records) for name, records in images.items()},
        "contents": {name: lock_contents(contents[name]) for name in images},
        "description_sha256": (
            hashlib.sha256(raw.description_file.read_bytes()).hexdigest()
            if raw.description_file is not None
            else None
        ),
    } | _lock_dual(raw)


def _lock_dual(raw: RawDomain) -> dict[str, Any]:
    """Return {} without dual texts, so that locks from before dual texts stay equal."""
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
    """Hash relative path, original person id, camera id and captions of each record."""
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
