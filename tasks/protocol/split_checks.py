"""Checks of the splits of a data set, in the same words for runs and for `doctor`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from tasks.protocol.lock import num_queries_without_match, queries_without_match
from tasks.schema import RawDomain, Record, Split


def check_splits(raw: RawDomain, *, is_learned: bool) -> None:
    """Check that scores of a data set mean something; warn of what only reduces them.

    Args:
        raw: the data set as read.
        is_learned: whether its training images are used.

    Raises:
        ValueError: no query of the test split has a match, so every score is undefined; or people
            are in training and test images of a data set that is learned.
    """
    if is_learned and (shared := list(shared_people(raw))):
        raise ValueError(f"{raw.name}: {shared[0]}")
    for kind, split in splits_of(raw):
        if (message := unmatched_queries(kind, split)) is None:
            continue
        if num_queries_without_match(split) == len(split.query):
            raise ValueError(f"{raw.name}: {message}")
        logging.getLogger(__name__).warning("%s: %s", raw.name, message)


def splits_of(raw: RawDomain) -> list[tuple[str, Split]]:
    """Return the test split and the data set's own validation split, with a name for messages."""
    return [("", raw.test)] + ([("validation ", raw.validation)] if raw.validation else [])


def unmatched_queries(kind: str, split: Split) -> str | None:
    """Describe queries without a match in the gallery; None if there are none.

    Args:
        kind: "" or "validation ".
        split: queries and gallery.
    """
    unmatched = queries_without_match(split)
    if not unmatched:
        return None
    number = len(unmatched)
    camera = "" if split.query_by == "text" else " by another camera"
    if number == len(split.query):
        remedy = (
            "so mAP and Rank-1 are undefined. Check that the gallery is complete"
            + (" and that file names contain at least two cameras" if camera else "")
            + "."
        )
        return (
            f"none of {number:,} {kind}queries has an image of its person{camera} in the gallery, "
            f"{remedy}"
        )
    return (
        f"{number:,} of {len(split.query):,} {kind}queries have no image of their person{camera} "
        f"in the gallery and are excluded from rankings (the first is {unmatched[0].image_path}). "
        "Check that the gallery is complete."
    )


def shared_people(raw: RawDomain) -> Iterator[str]:
    """Describe people that are in two of training, validation and test images."""
    tested, train = _people((*raw.test.query, *raw.test.gallery)), _people(raw.train)
    held_out = raw.validation or Split((), ())
    validated = _people((*held_out.query, *held_out.gallery))
    pairs = {
        "training and test": train & tested,
        "training and validation": train & validated,
        "validation and test": validated & tested,
    }
    for pair, both in pairs.items():
        if both:
            yield (
                f"{len(both):,} people (the first is {min(both)}) are in {pair} images, so scores "
                "would be invalid. Download the data set or its split files again."
            )


def _people(records: Sequence[Record]) -> set[int]:
    return {record.person_id for record in records}
