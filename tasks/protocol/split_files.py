"""Split files: the common JSON format of random splits.

A file is a list with one {"train": ..., "query": ..., "gallery": ...} for each split; each part is
a list of [path, person, camera]. Written files have paths relative to the data set's folder. Files
from other projects may have absolute paths of another machine, bare paths as entries (i-LIDS),
people instead of images under "train" and "test" (PRID 2011), and further values and keys.
Such files renumber people in each split, so person and camera ids are taken from the images; the
listed ids must only distinguish the same people.
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

from tasks.dataset_files import LocatedDataset, read_json
from tasks.schema import Record

PARTS = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class TrainTest:
    """One split of the images of a data set, with original person and camera ids."""

    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]

    def parts(self) -> dict[str, tuple[Record, ...]]:
        """Return the three lists by their names in split files."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}


def read_split_file(
    dataset: LocatedDataset, file: Path, index: int
) -> tuple[Mapping[str, Any], int]:
    """Read split `index` of a file without interpreting its entries.

    Returns:
        The split and the number of splits in the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a list of splits, or has too few of them.
    """
    splits = read_json(dataset, file)
    if not isinstance(splits, list) or not splits:
        raise ValueError(
            f"{file}: expected a list of splits, each with {', '.join(PARTS)}; got "
            + ("an empty list" if splits == [] else type(splits).__name__)
        )
    check_index(dataset, index, len(splits), str(file))
    split = splits[index]
    if not isinstance(split, dict):
        raise ValueError(
            f"{file}, split {index}: expected {', '.join(PARTS)} with a list each; got "
            f"{type(split).__name__}"
        )
    return split, len(splits)


def check_index(dataset: LocatedDataset, index: int, num_splits: int, where: str) -> None:
    """Check that a split with this index exists.

    Raises:
        ValueError: there are fewer splits.
    """
    if index >= num_splits:
        raise ValueError(
            f"{dataset.title}: benchmark.split_index is {index}, but {where} has {num_splits} "
            f"splits; set it to 0 to {num_splits - 1}"
        )


def listed_people(split: Mapping[str, Any], where: str) -> tuple[list[int], list[int]] | None:
    """Return training and test ids of a split that lists people, or None if it lists images.

    Raises:
        ValueError: people are in both lists.
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
    dataset: LocatedDataset, images: Sequence[Record], split: Mapping[str, Any], where: str
) -> TrainTest:
    """Return a split that lists images, with the person and camera ids of `images`.

    Args:
        dataset: the data set.
        images: all images that a split may contain.
        split: lists of entries by part.
        where: file and split, for messages.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: a part is missing, an entry is malformed, an image is listed twice, listed
            people differ from those of the images, or people are in training and test.
    """
    lists = {part: _entries(split, part, where) for part in PARTS}
    matched = _match_images(dataset, images, lists, where)
    for parts in (("train",), ("query", "gallery")):
        _check_people([pair for part in parts for pair in matched[part]], where)
    train, query, gallery = (tuple(record for record, _ in matched[part]) for part in PARTS)
    _check_disjoint(
        (record.person_id for record in train),
        (record.person_id for record in (*query, *gallery)),
        where,
    )
    return TrainTest(train, query, gallery)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _entries(split: Mapping[str, Any], part: str, where: str) -> list[tuple[str, int | None]]:
    """Return the paths of a part, each with its listed person or None."""
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


def _match_images(
    dataset: LocatedDataset,
    images: Sequence[Record],
    lists: Mapping[str, Sequence[tuple[str, int | None]]],
    where: str,
) -> dict[str, list[tuple[Record, int | None]]]:
    by_name: defaultdict[str, list[tuple[tuple[str, ...], Record]]] = defaultdict(list)
    for record in images:
        steps = PurePath(record.image_path).relative_to(dataset.folder).parts
        by_name[steps[-1]].append((steps, record))
    matched: dict[str, list[tuple[Record, int | None]]] = {}
    missing: list[str] = []
    for part, entries in lists.items():
        seen: set[str] = set()
        matched[part] = []
        for path, person in entries:
            record = _match_image(by_name, path, where)
            if record is None:
                missing.append(path)
            elif record.image_path in seen:
                raise ValueError(f"{where}: {part!r} lists {path} twice; remove one of the two")
            else:
                seen.add(record.image_path)
                matched[part].append((record, person))
    if missing:
        raise FileNotFoundError(
            f"{dataset.title}: {where} lists {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f", which {dataset.folder} does not contain. Download the missing images, or the "
            "split file that matches these images."
        )
    return matched


def _match_image(
    by_name: Mapping[str, Sequence[tuple[tuple[str, ...], Record]]], path: str, where: str
) -> Record | None:
    """Return the image whose relative path is a suffix of the listed path, or the reverse.

    `/other/data/viper/VIPeR/cam_a/000_45.bmp` matches `cam_a/000_45.bmp`. A bare name matches if
    it occurs in one folder only. Windows separators are accepted.
    """
    pure = PureWindowsPath(path)
    listed = tuple(step for step in pure.parts if step != pure.anchor)
    if not listed:
        return None
    matches = [
        (steps, record)
        for steps, record in by_name.get(listed[-1], ())
        if steps[-len(listed) :] == listed[-len(steps) :]
    ]
    if len(matches) > 1:
        examples = " and ".join("/".join(steps) for steps, _ in matches[:2])
        raise ValueError(
            f"{where}: {path} is ambiguous: {examples}; list the images with their folders"
        )
    return matches[0][1] if matches else None


def _check_people(pairs: Iterable[tuple[Record, int | None]], where: str) -> None:
    """Check that listed ids and the images' ids correspond one to one."""
    by_listed: dict[int, Record] = {}
    listed_ids: dict[int, int] = {}
    for record, person in pairs:
        if person is None:
            continue
        first = by_listed.setdefault(person, record)
        if first.person_id != record.person_id:
            names = " and ".join(Path(each.image_path).name for each in (first, record))
            raise ValueError(
                f"{where} lists person {person} for {names}, which show two people: the file "
                "belongs to other images. Download the file that matches these images."
            )
        if listed_ids.setdefault(record.person_id, person) != person:
            raise ValueError(
                f"{where} lists {Path(record.image_path).name} as person {person}, but another "
                f"image of that person as {listed_ids[record.person_id]}: the file belongs to "
                "other images. Download the file that matches these images."
            )


def _check_disjoint(train: Iterable[int], test: Iterable[int], where: str) -> None:
    if both := sorted(set(train) & set(test)):
        raise ValueError(
            f"{where}: person {both[0]}"
            + (f" and {len(both) - 1} more are" if len(both) > 1 else " is")
            + " in training and test, which invalidates results; use another split file."
        )


def split_as_json(split: TrainTest, folder: Path) -> dict[str, list[list[str | int]]]:
    """Return a split in the format of split files, with paths relative to `folder`."""
    return {
        part: [
            [_relative_path(record, folder), record.person_id, record.camera_id]
            for record in records
        ]
        for part, records in split.parts().items()
    }


def split_sha256(split: TrainTest, folder: Path) -> str:
    """Hash the content of a split, independently of the order and source of the lists."""
    lines = sorted(
        f"{part}\t{_relative_path(record, folder)}\t{record.person_id}\t{record.camera_id}"
        for part, records in split.parts().items()
        for record in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _relative_path(record: Record, folder: Path) -> str:
    # pathlib takes seconds for the 80,000 paths of twenty splits.
    return record.image_path.removeprefix(f"{folder}{os.sep}").replace(os.sep, "/")
