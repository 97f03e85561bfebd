"""What can be wrong with a data set that was read: sentences that say it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from tasks.benchmarks import ORDERS
from tasks.dataset_files import Counts
from tasks.protocol.lock import num_queries_without_match
from tasks.schema import RawDomain, Record, Split
from tasks.text.descriptions import read_descriptions

Parts = Mapping[str, Sequence[Record]]


def parts_of(raw: RawDomain) -> Parts:
    """The records by "train", "validation" (where the data set has its own), "query", "gallery"."""
    own = raw.validation
    held_out = {} if own is None else {"validation": (*own.query, *own.gallery)}
    return {"train": raw.train, **held_out, "query": raw.test.query, "gallery": raw.test.gallery}


def counts_of(records: Sequence[Record]) -> Counts:
    """How many there are; a text query counts as one image."""
    return Counts(
        images=len(records),
        identities=len({record.person_id for record in records}),
        cameras=len({record.camera_id for record in records}),
    )


def faults_and_notes(raw: RawDomain, expected: Mapping[str, Counts]) -> tuple[list[str], list[str]]:
    """What is wrong with a data set, and what is to be known and is no fault.

    Looked at are counts, queries without match, people in several splits, and part descriptions.

    Args:
        raw: as it was read.
        expected: counts that its splits should have.
    """
    parts = parts_of(raw)
    description_faults, notes = _descriptions(raw)
    faults = [
        *_unexpected_counts(parts, expected, raw),
        *_unmatched_queries("", raw.test),
        *(_unmatched_queries("validation ", raw.validation) if raw.validation else ()),
        *_shared_people(parts),
        *description_faults,
    ]
    return faults, notes


def _unexpected_counts(
    parts: Parts, expected: Mapping[str, Counts], raw: RawDomain
) -> Iterator[str]:
    differing: list[str] = []
    for part, wanted in expected.items():
        is_text = part == "query" and raw.test.query_by == "text"
        units = ("captions" if is_text else "images", "identities", "cameras")
        numbers = zip(units, astuple(counts_of(parts.get(part, ()))), astuple(wanted), strict=True)
        if told := [
            f"{there:,} {unit} instead of {known:,}"
            for unit, there, known in numbers
            if known is not None and there != known
        ]:
            differing.append(f"{part} has {', '.join(told)}")
    if differing:
        yield (
            f"{'; '.join(differing)}. If this is not all of the data set, in its {raw.variant} "
            "form, fetch or unpack it again."
        )


def _unmatched_queries(kind: str, split: Split) -> Iterator[str]:
    if number := num_queries_without_match(split):
        camera = "" if split.query_by == "text" else " by another camera"
        yield (
            f"{number:,} of {len(split.query):,} {kind}queries have no image of their "
            f"person{camera} in the gallery, and rankings leave them out. Is the gallery complete?"
        )


def _shared_people(parts: Parts) -> Iterator[str]:
    people = {part: {record.person_id for record in records} for part, records in parts.items()}
    tested = people["query"] | people["gallery"]
    validated = people.get("validation", set[int]())
    pairs = {
        "training and test": people["train"] & tested,
        "training and validation": people["train"] & validated,
        "validation and test": validated & tested,
    }
    for pair, both in pairs.items():
        if both:
            yield (
                f"{len(both):,} people (the first is {min(both)}) are in {pair} images, so results "
                "would say nothing. Fetch the data set, or the lists that belong to it, again."
            )


def _descriptions(raw: RawDomain) -> tuple[list[str], list[str]]:
    """Faults and notes of the part descriptions of the training images."""
    file = raw.description_file
    if file is None:
        return [], _no_descriptions(raw)
    try:
        descriptions = read_descriptions(file)
    except (ValueError, OSError) as error:
        return [str(error)], []
    notes: list[str] = []
    if descriptions.num_duplicates:
        notes.append(
            f"{descriptions.num_duplicates:,} lines of {file} repeat an image; the last line of "
            "each counts."
        )
    names = [Path(record.image_path).name for record in raw.train]
    missing = [name for name in names if name not in descriptions.parts]
    if not missing:
        return [], [f"{file} describes all {len(names):,} training images.", *notes]
    fault = (
        f"{file} lacks {len(missing):,} of {len(names):,} training images (the first is "
        f"{missing[0]}), and runs refuse it. Describe them, or move the file away."
    )
    return [fault], notes


def _no_descriptions(raw: RawDomain) -> list[str]:
    is_learned = any(raw.name in seen for seen, _ in ORDERS.values())
    if not is_learned or any(record.captions for record in raw.train):
        return []
    return [
        f"No part descriptions, which some learners need: {raw.name}_description.txt would be in "
        "the data set's folder, beside that, or in the root."
    ]
