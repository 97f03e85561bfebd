"""Data sets whose images are described in words, listed as CUHK-PEDES lists them.

Images lie below `imgs/`; beside it a JSON file holds a list of entries
`{"split": "train", "id": 7, "file_path": "CUHK03/7_1.jpg", "captions": ["A man ...", "He ..."]}`.
Tests are text-to-image: every caption of a test image is a query, all test images are the gallery.
No camera rule holds there and no name surely says the camera, so all records have camera 0.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from tasks.protocol.identities import text_split
from tasks.reading import Place, check_images, read_json
from tasks.schema import RawDomain, Record
from tasks.text.text_files import is_latin, normalise_text

IMAGES = "imgs"
TRAIN, VALIDATION, TEST = "train", "val", "test"
_SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the list.

    Attributes:
        number: its position in the list, from 1, for messages.
        split: "train", "val" or "test".
        person_id: as listed.
        path: of the image, below `imgs/`.
        captions: with single spaces between words; empty ones still there.
    """

    number: int
    split: str
    person_id: int
    path: str
    captions: tuple[str, ...]


def list_file(place: Place) -> Path:
    """The JSON file: the first thing that the layout needs."""
    return place.folder / place.layout.needs[0]


def read_entries(place: Place, path_key: str = "file_path") -> list[Entry]:
    """The entries of the data set's JSON file, in its order.

    Args:
        place: the data set.
        path_key: the entries' key for the image.

    Raises:
        ValueError: the file is not UTF-8 or not JSON, not a list, or an entry is not as expected;
            the entry is named.
    """
    file = list_file(place)
    listed = read_json(place, file)
    if not isinstance(listed, list):
        raise ValueError(
            f"{file}: expected a list of entries, got {type(listed).__name__}. Fetch the file as "
            f"it is published for {place.title}."
        )
    return [
        _entry(item, f"{file}, entry {number}", number, path_key)
        for number, item in enumerate(cast("list[Any]", listed), start=1)
    ]


def _entry(item: Any, where: str, number: int, path_key: str) -> Entry:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected an object, got {item!r:.60}")
    fields = cast("dict[str, Any]", item)
    for key in ("split", "id", path_key, "captions"):
        if key not in fields:
            raise ValueError(
                f"{where}: expected the key {key!r}; it has {', '.join(sorted(fields))}. "
                "Fetch the file as it is published."
            )
    split = fields["split"]
    if split not in _SPLITS:
        raise ValueError(f"{where}: expected the split train, val or test, got {split!r:.60}")
    return Entry(
        number=number,
        split=split,
        person_id=_person_id(fields["id"], where),
        path=_path(fields[path_key], where),
        captions=_captions(fields["captions"], where),
    )


def _person_id(value: Any, where: str) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    if not (is_number or is_digits):
        raise ValueError(f"{where}: expected a person id such as 7, got {value!r:.60}")
    return int(value)


def _path(value: Any, where: str) -> str:
    path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{where}: expected the path of an image below {IMAGES}/, got {value!r:.60}"
        )
    return path.as_posix()


def _captions(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts, or one text; whitespace of any kind becomes single spaces."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(
        isinstance(caption, str) for caption in cast("list[Any]", listed)
    ):
        raise ValueError(f"{where}: expected a list of captions, got {value!r:.60}")
    return tuple(normalise_text(caption, where) for caption in cast("list[str]", listed))


def captioned_domain(place: Place, entries: Iterable[Entry]) -> RawDomain:
    """The data set that the entries describe, records sorted by the images' paths.

    An image that is listed again for its person gets the further captions. Left out, with a
    warning that counts them: empty captions, training images without any other, and entries that
    give an image of the same split to a second person (the first one counts).

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: an image or a person is in two splits, or training or test have no image.
    """
    file = list_file(place)
    images, num_left_out = _merged(entries, file)
    _check_people(place, images.values())
    records: dict[str, list[Record]] = {split: [] for split in _SPLITS}
    folder = str(place.folder / IMAGES)
    for entry in sorted(images.values(), key=lambda entry: entry.path):
        captions = tuple(caption for caption in entry.captions if caption)
        num_left_out["empty captions"] += len(entry.captions) - len(captions)
        if captions or entry.split != TRAIN:
            image = os.path.join(folder, entry.path)
            records[entry.split].append(Record(image, entry.person_id, 0, captions))
        else:
            num_left_out["training images without a caption"] += 1
    for split in (TRAIN, TEST):
        if not records[split]:
            raise ValueError(
                f"{place.title}: {file} lists no image of the split {split!r}; fetch the list of "
                "the whole data set"
            )
    every = [record for split in _SPLITS for record in records[split]]
    check_images(place, every, file)
    if num_foreign := sum(not is_latin(text) for each in every for text in each.captions):
        logging.getLogger(__name__).warning(
            "%s: %d captions that %s lists have no Latin letter; they are kept, and a text tower "
            "that learned English hardly tells them apart",
            place.title, num_foreign, file,
        )  # fmt: skip
    for what, num in num_left_out.items():
        if num:
            logging.getLogger(__name__).warning(
                "%s: left out %d %s that %s lists", place.title, num, what, file
            )
    return RawDomain(
        name=place.name,
        train=tuple(records[TRAIN]),
        test=text_split(records[TEST]),
        validation=text_split(records[VALIDATION]) if records[VALIDATION] else None,
        folder=place.folder,
        variant=place.layout.variant,
        facts={"num_training_captions": sum(len(record.captions) for record in records[TRAIN])},
    )


def _merged(entries: Iterable[Entry], file: Path) -> tuple[dict[str, Entry], Counter[str]]:
    """One entry for each image, by path, and what was left out."""
    images: dict[str, Entry] = {}
    num_left_out: Counter[str] = Counter()
    for entry in entries:
        first = images.setdefault(entry.path, entry)
        if first is entry:
            continue
        if first.split != entry.split:
            raise ValueError(
                f"{file}: entry {first.number} has {entry.path} in {first.split}, entry "
                f"{entry.number} in {entry.split}. Expected each image in one split; fetch the "
                "file as it is published."
            )
        if first.person_id != entry.person_id:
            num_left_out["second persons of an image"] += 1
            continue
        further = [caption for caption in entry.captions if caption not in first.captions]
        images[entry.path] = replace(first, captions=(*first.captions, *further))
    return images, num_left_out


def people_by_split(entries: Iterable[Entry]) -> Mapping[str, set[int]]:
    """Person ids by split; every split is there."""
    people: defaultdict[str, set[int]] = defaultdict(set)
    for entry in entries:
        people[entry.split].add(entry.person_id)
    return {split: people[split] for split in _SPLITS}


def _check_people(place: Place, entries: Iterable[Entry]) -> None:
    people = people_by_split(entries)
    for first, second in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        if both := sorted(people[first] & people[second]):
            raise ValueError(
                f"{place.title}: {list_file(place)} has person {both[0]} in {first} and in "
                f"{second}"
                + (f", and {len(both) - 1} more" if len(both) > 1 else "")
                + ". Expected each person in one split; fetch the file as it is published."
            )
