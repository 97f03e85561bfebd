"""Split files: the field's JSON of random splits, read from anyone and written for anyone.

A file is a list with one {"train": ..., "query": ..., "gallery": ...} for each split, each part a
list of [path, person, camera]. Ours have paths below the data set's folder. Other people's files
are read as they are: with paths of their machine in front, with bare paths as entries (i-LIDS),
with people instead of images under "train" and "test" (PRID 2011), with further values and keys.
As files number people anew in each split, person and camera are those of the images themselves;
the listed numbers must only tell the same people apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from tasks.dataset_files import Place, read_json
from tasks.schema import Record

PARTS = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class TrainTest:
    """One split of a data set's images; person and camera ids are the data set's own."""

    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]

    def parts(self) -> dict[str, tuple[Record, ...]]:
        """The three lists by their names in split files."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}


def read_split_file(place: Place, file: Path, index: int) -> tuple[Mapping[str, Any], int]:
    """Split `index` of a file as it is written there, and how many the file has.

    Raises:
        FileNotFoundError, ValueError: no such file; not a list of splits; not so many of them.
    """
    splits = read_json(place, file)
    if not isinstance(splits, list) or not splits:
        raise ValueError(
            f"{file}: expected a list of splits, each with {', '.join(PARTS)}; got "
            + ("an empty list" if splits == [] else type(splits).__name__)
        )
    check_index(place, index, len(splits), str(file))
    split = splits[index]
    if not isinstance(split, dict):
        raise ValueError(
            f"{file}, split {index}: expected {', '.join(PARTS)} with a list each; got "
            f"{type(split).__name__}"
        )
    return split, len(splits)


def check_index(place: Place, index: int, num_splits: int, where: str) -> None:
    """Makes sure that there is a split of this index.

    Raises:
        ValueError: there are fewer.
    """
    if index >= num_splits:
        raise ValueError(
            f"{place.title}: benchmark.split_index is {index}, but {where} has {num_splits} "
            f"splits; set it to 0 to {num_splits - 1}"
        )


def listed_people(split: Mapping[str, Any], where: str) -> tuple[list[int], list[int]] | None:
    """Training and test people of a split that lists people, or None if it lists images.

    Raises:
        ValueError: some people are in both lists.
    """
    if set(split) < {"train", "test"} or "query" in split:
        return None
    lists = [split.get(part) for part in ("train", "test")]
    if not all(isinstance(ids, list) and ids and all(map(_is_int, ids)) for ids in lists):
        return None
    train, test = (list(map(int, ids)) for ids in lists if ids)
    _check_disjoint(train, test, where)
    return train, test


def listed_images(
    place: Place, images: Sequence[Record], split: Mapping[str, Any], where: str
) -> TrainTest:
    """The split that is listed, with the person and camera ids of `images`.

    Args:
        place: the data set.
        images: every image of the data set that a split may name.
        split: lists of entries by part.
        where: file and split, for messages.

    Raises:
        FileNotFoundError: an image is listed that is not there.
        ValueError: a part is missing or an entry malformed, an image is listed twice, listed people
            are others than the images', or people are in training and test.
    """
    lists = {part: _entries(split, part, where) for part in PARTS}
    found = _find_images(place, images, lists, where)
    for parts in (("train",), ("query", "gallery")):
        _check_people([pair for part in parts for pair in found[part]], where)
    train, query, gallery = (tuple(record for record, _ in found[part]) for part in PARTS)
    _check_disjoint(
        (record.person_id for record in train),
        (record.person_id for record in (*query, *gallery)),
        where,
    )
    return TrainTest(train, query, gallery)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _entries(split: Mapping[str, Any], part: str, where: str) -> list[tuple[str, int | None]]:
    """Paths of a part, with the person that is listed for each if one is."""
    listed = split.get(part)
    if not isinstance(listed, list) or not listed:
        keys = ", ".join(sorted(map(str, split))) or "nothing"
        raise ValueError(
            f"{where}: expected a list of images under {part!r}, got {_shown(listed)}; the split "
            f"has {keys}"
        )
    entries: list[tuple[str, int | None]] = []
    for entry in listed:
        if isinstance(entry, str):
            entries.append((entry, None))
        elif isinstance(entry, list) and len(entry) >= 3 and isinstance(entry[0], str):
            entries.append((entry[0], entry[1] if _is_int(entry[1]) else None))
        else:
            raise ValueError(
                f"{where}: expected [path, person, camera] under {part!r}, got {_shown(entry)}"
            )
    return entries


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _find_images(
    place: Place,
    images: Sequence[Record],
    lists: Mapping[str, Sequence[tuple[str, int | None]]],
    where: str,
) -> dict[str, list[tuple[Record, int | None]]]:
    by_name: defaultdict[str, list[tuple[tuple[str, ...], Record]]] = defaultdict(list)
    for record in images:
        own = PurePath(record.image_path).relative_to(place.folder).parts
        by_name[own[-1]].append((own, record))
    found: dict[str, list[tuple[Record, int | None]]] = {}
    missing: list[str] = []
    for part, entries in lists.items():
        seen: set[str] = set()
        found[part] = []
        for path, person in entries:
            record = _find_image(by_name, path, where)
            if record is None:
                missing.append(path)
            elif record.image_path in seen:
                raise ValueError(f"{where}: {part!r} lists {path} twice; remove one of the two")
            else:
                seen.add(record.image_path)
                found[part].append((record, person))
    if missing:
        raise FileNotFoundError(
            f"{place.title}: {where} lists {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f", which {place.folder} does not hold. Fetch the missing images, or the split file "
            "that belongs to these images."
        )
    return found


def _find_image(
    by_name: Mapping[str, Sequence[tuple[tuple[str, ...], Record]]], path: str, where: str
) -> Record | None:
    """The image whose path below the data set's folder ends the listed path, or the reverse.

    So `/their/data/viper/VIPeR/cam_a/000_45.bmp` is `cam_a/000_45.bmp`, and a bare name will do
    where no other folder has that name. Windows' separators are understood too.
    """
    pure = PureWindowsPath(path)
    listed = tuple(step for step in pure.parts if step != pure.anchor)
    if not listed:
        return None
    fitting = [
        (own, record)
        for own, record in by_name.get(listed[-1], ())
        if own[-len(listed) :] == listed[-len(own) :]
    ]
    if len(fitting) > 1:
        some = " and ".join("/".join(own) for own, _ in fitting[:2])
        raise ValueError(f"{where}: {path} may be {some}; list the images with their folders")
    return fitting[0][1] if fitting else None


def _check_people(pairs: Iterable[tuple[Record, int | None]], where: str) -> None:
    """Makes sure that listed people and the images' people are the same, whatever their numbers."""
    by_listed: dict[int, Record] = {}
    by_own: dict[int, int] = {}
    for record, person in pairs:
        if person is None:
            continue
        first = by_listed.setdefault(person, record)
        if first.person_id != record.person_id:
            names = " and ".join(Path(each.image_path).name for each in (first, record))
            raise ValueError(
                f"{where} lists person {person} for {names}, who are two people: the file belongs "
                "to other images. Fetch the one that belongs to these."
            )
        if by_own.setdefault(record.person_id, person) != person:
            raise ValueError(
                f"{where} lists {Path(record.image_path).name} as person {person}, but another "
                f"image of that person as {by_own[record.person_id]}: the file belongs to other "
                "images. Fetch the one that belongs to these."
            )


def _check_disjoint(train: Iterable[int], test: Iterable[int], where: str) -> None:
    if both := sorted(set(train) & set(test)):
        raise ValueError(
            f"{where}: person {both[0]}"
            + (f" and {len(both) - 1} more are" if len(both) > 1 else " is")
            + " in training and test. Results would be worthless; fetch or make another split file."
        )


def split_as_json(split: TrainTest, folder: Path) -> dict[str, list[list[str | int]]]:
    """A split as it is written to a split file, with paths below the data set's folder."""
    return {
        part: [
            [_path_below(record, folder), record.person_id, record.camera_id] for record in records
        ]
        for part, records in split.parts().items()
    }


def split_sha256(split: TrainTest, folder: Path) -> str:
    """A hash of who and what is in which part; where it was listed and in which order is not."""
    lines = sorted(
        f"{part}\t{_path_below(record, folder)}\t{record.person_id}\t{record.camera_id}"
        for part, records in split.parts().items()
        for record in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _path_below(record: Record, folder: Path) -> str:
    # Not by pathlib: twenty splits name 80,000 images, which took it seconds.
    return record.image_path.removeprefix(f"{folder}{os.sep}").replace(os.sep, "/")


def write_json(file: Path, content: object) -> None:
    """Writes JSON so that nobody ever sees half of it; makes the folder.

    Raises:
        OSError: the folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
