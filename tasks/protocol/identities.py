"""Training and validation identities of a benchmark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field

from tasks.schema import RawDomain, Record, Split
from tasks.text.text_files import utf8_lines

IdentityRule = Literal["all"] | Annotated[int, Field(ge=1)] | Path

_MAX_DIGITS = 19
"""Digits of the largest 64-bit id."""

QueryKind = Literal["image", "text"]


def rule_name(rule: IdentityRule) -> str:
    """Return the rule as text for the lock; a file is given by its name without folders."""
    return rule.name if isinstance(rule, Path) else str(rule)


def choose_identities(
    raw: RawDomain, rule: IdentityRule, num_validation: int
) -> tuple[list[int], list[int]]:
    """Select the training and validation ids of a domain, both sorted; deterministic.

    Validation identities are the largest ids that have a query with a match, among those that the
    rule does not select, or among all for the rule "all". No training identities are held out if
    the data set has its own validation split.

    Args:
        raw: domain as read.
        rule: "all", a number of identities (the smallest ids), or a file or folder of lists.
        num_validation: number of identities to hold out.

    Returns:
        Training ids and validation ids.

    Raises:
        ValueError: the domain has too few identities for the rule and the validation.
    """
    ids = sorted({record.person_id for record in raw.train})
    if not ids:
        raise ValueError(
            f"{raw.name} has no training images; list it in benchmark.unseen to only test on it"
        )
    if raw.validation is not None:
        num_validation = 0
    train_ids = _selected_identities(ids, raw.name, rule)
    reserved = set() if rule == "all" else set(train_ids)
    candidates = identities_with_queries(raw.train, raw.test.query_by)
    free = [person_id for person_id in candidates if person_id not in reserved]
    if len(free) < num_validation:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities is {num_validation}, but "
            f"benchmark.identities={rule_name(rule)} leaves {len(free)} of {len(ids)} identities "
            "with a query and a match (images by two cameras, unless the folder has one camera). "
            "Reduce one of the two settings."
        )
    validation_ids = free[len(free) - num_validation :]
    train_ids = sorted(set(train_ids) - set(validation_ids))
    if not train_ids:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities={num_validation} leaves none of "
            f"{len(ids)} identities for training; reduce it"
        )
    return train_ids, validation_ids


def _selected_identities(ids: list[int], name: str, rule: IdentityRule) -> list[int]:
    if rule == "all":
        return ids
    if isinstance(rule, int):
        if rule > len(ids):
            raise ValueError(
                f"{name} has {len(ids)} training identities, but benchmark.identities is {rule}; "
                f"set benchmark.identities=all, or a number up to {len(ids)}"
            )
        return ids[:rule]
    listed = listed_identities(Path(rule), name)
    if unknown := sorted(set(listed) - set(ids)):
        raise ValueError(
            f"{rule} lists identity {unknown[0]} and {len(unknown) - 1} more that the training "
            f"folder of {name} does not contain; remove them"
        )
    return listed


def listed_identities(path: Path, name: str) -> list[int]:
    """Read a list of person ids with one id per line and return them sorted.

    Args:
        path: the list, or a folder with the list <name>.txt.
        name: name of the domain.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not an id, or the list is empty.
    """
    source = path / f"{name}.txt" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(
            f"benchmark.identities: expected 'all', a number, or a file with one id per line; "
            f"{source} does not exist{_similar_file(source)}"
        )
    listed: set[int] = set()
    for number, line in enumerate(utf8_lines(source), start=1):
        text = line.strip()
        if text and not (text.isdecimal() and len(text.lstrip("0")) <= _MAX_DIGITS):
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            raise ValueError(f"{source}, line {number}: expected a person id, got {shown!r}")
        if text:
            listed.add(int(text))
    if not listed:
        raise ValueError(f"{source} lists no identity; expected one id per line")
    return sorted(listed)


def _similar_file(source: Path) -> str:
    """Name a file that differs from `source` in upper and lower case alone, for a message."""
    others = source.parent.iterdir() if source.parent.is_dir() else ()
    similar = [file for file in others if file.name.casefold() == source.name.casefold()]
    return f", but {similar[0].name} does; rename it" if similar else ""


def identities_with_queries(records: Iterable[Record], query_by: QueryKind = "image") -> list[int]:
    """Return the sorted ids that can be held out: each has a query with a match.

    An identity needs images by two cameras; two images if all records have the same camera
    (CUHK-SYSU, i-LIDS); one image with a caption if queries are texts.
    """
    listed = list(records)
    if query_by == "text":
        return sorted({record.person_id for record in listed if record.captions})
    single = _is_single_camera(listed)
    views: defaultdict[int, set[object]] = defaultdict(set)
    for record in listed:
        views[record.person_id].add(record.image_path if single else record.camera_id)
    return sorted(person_id for person_id, distinct in views.items() if len(distinct) > 1)


def _is_single_camera(records: Sequence[Record]) -> bool:
    return len({record.camera_id for record in records}) == 1


def split_validation(
    records: Sequence[Record], person_ids: Iterable[int], query_by: QueryKind = "image"
) -> Split:
    """Split the images of some identities into queries and gallery.

    With `query_by` "image", the first image of a person by each camera is a query, as in
    Market-1501, if an image by another camera remains in the gallery; a person without such an
    image has one query. If all records have the same camera, the gallery gets the next camera id,
    as in the test split of CUHK-SYSU; otherwise the camera rule would remove every match. With
    "text", each caption is a query and all images are the gallery.

    Args:
        records: training records of the domain.
        person_ids: identities to hold out, a subset of `identities_with_queries`.
        query_by: kind of the queries.
    """
    selected = set(person_ids)
    images: defaultdict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: PurePath(record.image_path).name):
        if record.person_id in selected:
            images[record.person_id].append(record)
    if query_by == "text":
        return text_split(record for person_id in sorted(images) for record in images[person_id])
    single = _is_single_camera(records)
    query: list[Record] = []
    gallery: list[Record] = []
    for person_id in sorted(images):
        person_query, person_gallery = _split_person(images[person_id])
        query += person_query
        gallery += person_gallery
    if single:
        gallery = [replace(record, camera_id=record.camera_id + 1) for record in gallery]
    return Split(tuple(query), tuple(gallery))


def text_split(records: Iterable[Record]) -> Split:
    """Return a text-to-image split: every caption is a query, all images are the gallery.

    No camera rule applies, so the image of a caption is one of its matches.
    """
    gallery = tuple(records)
    query = tuple(
        replace(record, captions=(caption,)) for record in gallery for caption in record.captions
    )
    return Split(query, gallery, query_by="text")


def _split_person(images: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    firsts: dict[int, Record] = {}
    for record in images:
        firsts.setdefault(record.camera_id, record)
    rest_cameras = {record.camera_id for record in images if record not in firsts.values()}
    query = [first for first in firsts.values() if rest_cameras - {first.camera_id}]
    query = query or [images[0]]
    return query, [record for record in images if record not in query]
