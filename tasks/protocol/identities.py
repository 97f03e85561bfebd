"""Who trains and who validates: the identity rule of a benchmark, and its held-out people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field

from tasks.schema import RawDomain, Record, Split

IdentityRule = Literal["all"] | Annotated[int, Field(ge=1)] | Path

QueryKind = Literal["image", "text"]


def rule_name(rule: IdentityRule) -> str:
    """The rule in words, without a path of this machine."""
    return rule.name if isinstance(rule, Path) else str(rule)


def choose_identities(
    raw: RawDomain, rule: IdentityRule, num_validation: int
) -> tuple[list[int], list[int]]:
    """Training and validation ids of a domain, both sorted; no seed is involved.

    Validation people are the largest ids that can make a query with a match, among those that the
    rule leaves out, or among all if it leaves none out. A data set that has validation people of
    its own gives none of its training people.

    Raises:
        ValueError: the domain has fewer identities than the rule and the validation need.
    """
    ids = sorted({record.person_id for record in raw.train})
    if not ids:
        raise ValueError(
            f"{raw.name} has no training images; name it among benchmark.unseen, not to be learned"
        )
    if raw.validation is not None:
        num_validation = 0
    train_ids = _ruled_identities(ids, raw.name, rule)
    taken = set() if rule == "all" else set(train_ids)
    able = people_with_queries(raw.train, raw.test.query_by)
    free = [person_id for person_id in able if person_id not in taken]
    if len(free) < num_validation:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities is {num_validation}, but "
            f"benchmark.identities={rule_name(rule)} leaves {len(free)} of {len(ids)} identities "
            "that can be both queries and matches (seen by two cameras, where there are several). "
            "Lower one of the two."
        )
    validation_ids = free[len(free) - num_validation :]
    train_ids = sorted(set(train_ids) - set(validation_ids))
    if not train_ids:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities={num_validation} leaves none of "
            f"{len(ids)} identities to train on"
        )
    return train_ids, validation_ids


def _ruled_identities(ids: list[int], name: str, rule: IdentityRule) -> list[int]:
    if rule == "all":
        return ids
    if isinstance(rule, int):
        if rule > len(ids):
            raise ValueError(
                f"{name} has {len(ids)} training identities, but benchmark.identities is {rule}"
            )
        return ids[:rule]
    listed = listed_identities(Path(rule), name)
    if unknown := sorted(set(listed) - set(ids)):
        raise ValueError(
            f"{rule} lists identity {unknown[0]} and {len(unknown) - 1} more that {name}'s "
            "training folder does not hold"
        )
    return listed


def listed_identities(path: Path, name: str) -> list[int]:
    """The sorted ids of a list with one per line: the file, or <name>.txt in the folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line holds something else, or there is none.
    """
    source = path / f"{name}.txt" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(
            f"benchmark.identities: expected 'all', a number, or a file with one id per line; "
            f"{source} does not exist"
        )
    listed: set[int] = set()
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if text and not text.isdecimal():
            raise ValueError(f"{source}, line {number}: expected a person id, got {text!r}")
        if text:
            listed.add(int(text))
    if not listed:
        raise ValueError(f"{source} lists no identity; expected one id per line")
    return sorted(listed)


def people_with_queries(records: Iterable[Record], query_by: QueryKind = "image") -> list[int]:
    """Sorted ids of the people that can be held out: each makes a query that has a match.

    Two cameras must have seen them; where the whole folder is of one camera (CUHK-SYSU, i-LIDS),
    two images do; where queries are texts, one image with a caption does.
    """
    listed = list(records)
    if query_by == "text":
        return sorted({record.person_id for record in listed if record.captions})
    single = _is_single_camera(listed)
    seen_as: defaultdict[int, set[object]] = defaultdict(set)
    for record in listed:
        seen_as[record.person_id].add(record.image_path if single else record.camera_id)
    return sorted(person_id for person_id, views in seen_as.items() if len(views) > 1)


def _is_single_camera(records: Sequence[Record]) -> bool:
    return len({record.camera_id for record in records}) == 1


def split_validation(
    records: Sequence[Record], person_ids: Iterable[int], query_by: QueryKind = "image"
) -> Split:
    """Queries and gallery of the given people, all of `people_with_queries`.

    A query is the first image of a person by a camera, as in Market-1501, if another camera's
    image remains in the gallery; a person for whom none remains gives one query. Where the whole
    folder is of one camera, the gallery is said to be of the next one, as CUHK-SYSU's tests do:
    else no query would keep a match. With `query_by` "text" each caption of each image is a query
    and all images are the gallery.
    """
    wanted = set(person_ids)
    images: defaultdict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: PurePath(record.image_path).name):
        if record.person_id in wanted:
            images[record.person_id].append(record)
    if query_by == "text":
        return text_split(record for person_id in sorted(images) for record in images[person_id])
    single = _is_single_camera(records)
    query: list[Record] = []
    gallery: list[Record] = []
    for person_id in sorted(images):
        own_query, own_gallery = _split_person(images[person_id])
        query += own_query
        gallery += own_gallery
    if single:
        gallery = [replace(record, camera_id=record.camera_id + 1) for record in gallery]
    return Split(tuple(query), tuple(gallery))


def text_split(records: Iterable[Record]) -> Split:
    """The text-to-image protocol on these images: every caption is a query, every image listed.

    No camera rule holds, so the image a caption was written for is among its matches.
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
