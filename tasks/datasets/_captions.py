"""Data sets with captions in the format of CUHK-PEDES.

Images are in `imgs/`. A JSON file beside it has a list of entries
`{"split": "train", "id": 7, "file_path": "CUHK03/7_1.jpg", "captions": ["A man ...", "He ..."]}`.
The test is text-to-image: every caption of a test image is a query, all test images are the
gallery. All records have camera 0: the test has no camera rule, and file names do not reliably
contain the camera.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from tasks.dataset_files import LocatedDataset, check_images, check_spellings, read_json
from tasks.protocol.identities import text_split
from tasks.schema import RawDomain, Record
from tasks.text.caption_checks import caption_findings
from tasks.text.text_files import check_encodable, normalise_text

IMAGES = "imgs"
TRAIN, VALIDATION, TEST = "train", "val", "test"
_MAX_DIGITS = 19
_SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the JSON list.

    Attributes:
        number: position in the list, from 1, for messages.
        split: "train", "val" or "test".
        person_id: listed id.
        path: path of the image relative to `imgs/`.
        captions: captions with normalised whitespace; empty captions are included.
    """

    number: int
    split: str
    person_id: int
    path: str
    captions: tuple[str, ...]


def list_file(dataset: LocatedDataset) -> Path:
    """Return the JSON file: the first required file of the layout."""
    return dataset.folder / dataset.layout.needs[0]


def read_entries(dataset: LocatedDataset, path_key: str = "file_path") -> list[Entry]:
    """Read the entries of the JSON file in order.

    Args:
        dataset: the data set.
        path_key: key of the image path in an entry.

    Raises:
        ValueError: the file is not a UTF-8 JSON list, or an entry is invalid; names the entry.
    """
    file = list_file(dataset)
    listed = read_json(dataset, file)
    if not isinstance(listed, list):
        raise ValueError(
            f"{file}: expected a list of entries, got {type(listed).__name__}. Download "
            f"the original file of {dataset.title}."
        )
    items = [(f"{file}, entry {number}", item) for number, item in enumerate(listed, start=1)]
    entries = [
        _entry(item, where, number, path_key) for number, (where, item) in enumerate(items, start=1)
    ]
    check_spellings(dataset, ((str(item["id"]), where) for where, item in items))
    return entries


def _entry(item: Any, where: str, number: int, path_key: str) -> Entry:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected an object, got {item!r:.60}")
    fields = cast("dict[str, Any]", item)
    for key in ("split", "id", path_key, "captions"):
        if key not in fields:
            raise ValueError(
                f"{where}: expected the key {key!r}; it has {', '.join(sorted(fields))}. "
                "Download the original file."
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
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    is_text = isinstance(value, str) and value.isascii() and value.isdecimal()
    if is_text and len(str(value).lstrip("0")) <= _MAX_DIGITS:
        return int(value)
    raise ValueError(f"{where}: expected a person id such as 7, got {value!r:.60}")


def _path(value: Any, where: str) -> str:
    """Return the path below `imgs/`; lists written on Windows separate folders by backslashes."""
    path = PurePosixPath(value.replace("\\", "/") if isinstance(value, str) else "")
    check_encodable(str(path), where)
    is_absolute = path.is_absolute() or bool(PureWindowsPath(path).drive)
    if not path.name or is_absolute or ".." in path.parts:
        raise ValueError(
            f"{where}: expected the path of an image below {IMAGES}/, got {value!r:.60}"
        )
    return path.as_posix()


def _captions(value: Any, where: str) -> tuple[str, ...]:
    """Read a list of texts or a single text; normalise whitespace."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(
        isinstance(caption, str) for caption in cast("list[Any]", listed)
    ):
        raise ValueError(f"{where}: expected a list of captions, got {value!r:.60}")
    return tuple(normalise_text(caption, where) for caption in cast("list[str]", listed))


def captioned_domain(dataset: LocatedDataset, entries: Iterable[Entry]) -> RawDomain:
    """Build the domain of the entries, with records sorted by image path.

    Captions of repeated entries of an image are merged. Empty captions, training images without
    captions, and entries that assign an image to a second person of the same split are excluded
    and counted in a warning.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: an image or a person is in two splits, or training or test have no image.
    """
    file = list_file(dataset)
    images, num_excluded = _merge(entries, file)
    _check_people(dataset, images.values())
    records: dict[str, list[Record]] = {split: [] for split in _SPLITS}
    folder = str(dataset.folder / IMAGES)
    for entry in sorted(images.values(), key=lambda entry: entry.path):
        captions = tuple(caption for caption in entry.captions if caption)
        num_excluded["empty captions"] += len(entry.captions) - len(captions)
        if captions or entry.split != TRAIN:
            image = os.path.join(folder, entry.path)
            records[entry.split].append(Record(image, entry.person_id, 0, captions))
        else:
            num_excluded["training images without a caption"] += 1
    for split in (TRAIN, TEST):
        if not records[split]:
            raise ValueError(
                f"{dataset.title}: {file} lists no image of the split {split!r}; download the "
                "complete list"
            )
    every = [record for split in _SPLITS for record in records[split]]
    check_images(dataset, every, file)
    if findings := caption_findings(every):
        logging.getLogger(__name__).warning(
            "%s: kept %s in %s", dataset.title, "; ".join(findings), file
        )
    for what, num in num_excluded.items():
        if num:
            logging.getLogger(__name__).warning(
                "%s: excluded %d %s in %s", dataset.title, num, what, file
            )
    return RawDomain(
        name=dataset.name,
        train=tuple(records[TRAIN]),
        test=text_split(records[TEST]),
        validation=text_split(records[VALIDATION]) if records[VALIDATION] else None,
        folder=dataset.folder,
        variant=dataset.layout.variant,
        facts={"num_training_captions": sum(len(record.captions) for record in records[TRAIN])},
    )


def _merge(entries: Iterable[Entry], file: Path) -> tuple[dict[str, Entry], Counter[str]]:
    """Merge entries of the same image; return them by path, and counts of excluded entries."""
    images: dict[str, Entry] = {}
    num_excluded: Counter[str] = Counter()
    for entry in entries:
        first = images.setdefault(entry.path, entry)
        if first is entry:
            continue
        if first.split != entry.split:
            raise ValueError(
                f"{file}: entry {first.number} has {entry.path} in {first.split}, entry "
                f"{entry.number} in {entry.split}. Expected each image in one split; download "
                "the original file."
            )
        if first.person_id != entry.person_id:
            num_excluded["second persons of an image"] += 1
            continue
        further = [caption for caption in entry.captions if caption not in first.captions]
        images[entry.path] = replace(first, captions=(*first.captions, *further))
    return images, num_excluded


def people_by_split(entries: Iterable[Entry]) -> Mapping[str, set[int]]:
    """Return the person ids of every split."""
    people: defaultdict[str, set[int]] = defaultdict(set)
    for entry in entries:
        people[entry.split].add(entry.person_id)
    return {split: people[split] for split in _SPLITS}


def _check_people(dataset: LocatedDataset, entries: Iterable[Entry]) -> None:
    people = people_by_split(entries)
    for first, second in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        if both := sorted(people[first] & people[second]):
            raise ValueError(
                f"{dataset.title}: {list_file(dataset)} has person {both[0]} in {first} and in "
                f"{second}"
                + (f", and {len(both) - 1} more" if len(both) > 1 else "")
                + ". Expected each person in one split; download the original file."
            )
