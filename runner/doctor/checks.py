"""Checks of a data set that was read: messages with the problem and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from tasks.benchmarks import ORDERS
from tasks.dataset_files import Counts
from tasks.protocol.split_checks import shared_people, splits_of, unmatched_queries
from tasks.schema import RawDomain, Record
from tasks.text.descriptions import read_descriptions

Parts = Mapping[str, Sequence[Record]]


def parts_of(raw: RawDomain) -> Parts:
    """Groups the records into "train", "validation" (if it exists), "query" and "gallery"."""
    split = raw.validation
    validation = {} if split is None else {"validation": (*split.query, *split.gallery)}
    return {"train": raw.train, **validation, "query": raw.test.query, "gallery": raw.test.gallery}


def counts_of(records: Sequence[Record]) -> Counts:
    """Counts images, identities and cameras; a text query counts as one image."""
    return Counts(
        images=len(records),
        identities=len({record.person_id for record in records}),
        cameras=len({record.camera_id for record in records}),
    )


def faults_and_notes(raw: RawDomain, expected: Mapping[str, Counts]) -> tuple[list[str], list[str]]:
    """Checks counts, queries without match, shared identities and part descriptions.

    Args:
        raw: the data set as its reader returned it.
        expected: expected counts by part.

    Returns:
        Faults, and notes that are not faults.
    """
    parts = parts_of(raw)
    description_faults, notes = _descriptions(raw)
    faults = [
        *_unexpected_counts(parts, expected, raw),
        *(
            message
            for kind, split in splits_of(raw)
            if (message := unmatched_queries(kind, split)) is not None
        ),
        *shared_people(raw),
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
        if differences := [
            f"{actual:,} {unit} instead of {known:,}"
            for unit, actual, known in numbers
            if known is not None and actual != known
        ]:
            differing.append(f"{part} has {', '.join(differences)}")
    if differing:
        yield (
            f"{'; '.join(differing)}. If variant {raw.variant} is incomplete, download or unpack "
            "it again."
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
            "each image is used."
        )
    names = [Path(record.image_path).name for record in raw.train]
    missing = [name for name in names if name not in descriptions.parts]
    if not missing:
        return [], [f"{file} describes all {len(names):,} training images.", *notes]
    fault = (
        f"{file} lacks {len(missing):,} of {len(names):,} training images (the first is "
        f"{missing[0]}), and runs reject it. Add the descriptions, or remove the file."
    )
    return [fault], notes


def _no_descriptions(raw: RawDomain) -> list[str]:
    is_learned = any(raw.name in seen for seen, _ in ORDERS.values())
    if not is_learned or any(record.captions for record in raw.train):
        return []
    return [
        f"No part descriptions, which some learners need: put {raw.name}_description.txt into the "
        "data set's folder, next to that folder, or into the root."
    ]
