"""Market-1501, and every data set in its layout and naming.

`bounding_box_train/`, `query/` and `bounding_box_test/` hold files like
`0002_c1s1_000451_03.jpg`: person 2, camera 1. In the gallery, person -1 is junk (skipped) and
person 0 a distractor (kept: it is no query's match).
Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tasks.schema import RawDomain, Record, Split

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
ROOT_NAMES = ("Market-1501-v15.09.15", "Market-1501", "market1501")
_FILE_NAME = re.compile(r"(-?\d+)_c(\d+)(?:s\d+)?_.*\.jpe?g", re.IGNORECASE)
_JUNK, _DISTRACTOR = -1, 0


def read(root: Path, name: str = "market1501") -> RawDomain:
    """Reads the data set under `root`, which may be its folder or a parent of it.

    Person ids are the data set's own; camera ids count from 0. Records are sorted by file name.
    The description file is `<name>_description.txt` in the data set's folder or in the one above.

    Raises:
        FileNotFoundError: no such root, or one of the three folders is missing.
        ValueError: a folder is empty or none of its file names parses.
    """
    folder = locate(root, name)
    train, query, gallery = (_read_folder(folder / part, name) for part in FOLDERS)
    return RawDomain(
        name=name,
        train=tuple(record for record in train if record.person_id != _DISTRACTOR),
        test=Split(
            query=tuple(record for record in query if record.person_id != _DISTRACTOR),
            gallery=gallery,
        ),
        description_file=_description_file(folder, name),
    )


def locate(root: Path, name: str = "market1501") -> Path:
    """The folder at or below `root` that holds the data set's three folders.

    Raises:
        FileNotFoundError: no such root, or one of the three folders is missing.
    """
    title = _title(name)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{title}: the folder {root} does not exist. Set benchmark.root to the data set's "
            "folder or a parent of it."
        )
    below = [root / child for child in ROOT_NAMES]
    deeper = [root / "market1501" / child for child in ROOT_NAMES[:2]]
    for folder in (root, *below, *deeper):
        if any((folder / part).is_dir() for part in FOLDERS):
            return _complete(folder, title)
    return _complete(root, title)


def _complete(folder: Path, title: str) -> Path:
    for part in FOLDERS:
        if not (folder / part).is_dir():
            found = sorted(f"{child.name}/" for child in folder.iterdir() if child.is_dir())
            seen = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "") or "no folder"
            raise FileNotFoundError(
                f"{title}: expected {part}/ under {folder}; found {seen}. Set benchmark.root."
            )
    return folder


def _title(name: str) -> str:
    return "Market-1501" if name == "market1501" else name


def _read_folder(folder: Path, name: str) -> tuple[Record, ...]:
    """Records of the images in a folder by file name, junk left out."""
    names = sorted(child.name for child in folder.iterdir() if child.is_file())
    if not names:
        raise ValueError(
            f"{_title(name)}: {folder} is empty; expected images like 0002_c1s1_000451_03.jpg"
        )
    records: list[Record] = []
    num_unread = 0
    for file_name in names:
        match = _FILE_NAME.fullmatch(file_name)
        if match is None:
            num_unread += 1
        elif int(match[1]) != _JUNK:
            path = str(folder / file_name)
            records.append(Record(path, int(match[1]), camera_id=int(match[2]) - 1))
    if num_unread == len(names):
        raise ValueError(
            f"{_title(name)}: none of the {num_unread} files in {folder} is named like "
            f"0002_c1s1_000451_03.jpg; the first is {names[0]}"
        )
    if num_unread:
        logging.getLogger(__name__).warning(
            "%s: ignored %d files in %s that are not named like 0002_c1s1_000451_03.jpg",
            _title(name), num_unread, folder,
        )  # fmt: skip
    return tuple(records)


def _description_file(folder: Path, name: str) -> Path | None:
    for place in (folder, folder.parent):
        path = place / f"{name}_description.txt"
        if path.is_file():
            return path
    return None
