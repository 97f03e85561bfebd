"""LPW, Labeled Pedestrian in the Wild: its second scene, four cameras.

Two forms are read, which are two data sets, not one:

- `LPW_s2/`, the set that lifelong re-identification made of scene 2 in place of the withdrawn
  DukeMTMC-reID: Market-1501's layout, `0002_c1s2_079984_01.jpg` is person 2 by camera 1; -1 is
  junk and skipped. It has no distractors, so person 0, if there is one, is a person.
- the authors' release, `pep_256x128/data_slim/scen2/<camera>/<person>/*.jpg`. How LPW_s2 chose its
  images and test people is not published exactly. `SPLIT_RULE` is this project's own, in the same
  spirit; what it gives is **not** LPW_s2, and the variant "raw" and the rule in the protocol lock
  show it.

Song et al., "Region-based Quality Estimation Network for Large-scale Person Re-identification",
AAAI 2018.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    NamedImage,
    Place,
    ReadOptions,
    named_images,
)
from tasks.datasets.market1501 import FOLDERS
from tasks.schema import RawDomain, Record, Split

SPLIT_RULE = (
    "scene 2; the smaller half (rounded down) of the sorted person ids trains, the rest tests; of "
    "each person and camera at most 4 images, evenly spaced from the first to the last; the first "
    "of them is a query where the gallery keeps the person by another camera; all others are the "
    "gallery"
)
_MAX_IMAGES = 4
_NUM_CAMERAS = 4
_SCENE = "scen2"
FACTS = DatasetFacts(
    title="LPW",
    folders=(
        "LPW_s2",
        "lpw/LPW_s2",
        "LPW/LPW_s2",
        "lpw_s2",
        "lpw",
        "LPW",
        "pep_256x128/data_slim",
        "lpw/pep_256x128/data_slim",
        "LPW/pep_256x128/data_slim",
    ),
    layouts=(
        Layout("LPW_s2", needs=FOLDERS, expected={"train": Counts(12_791, 875, 4)}),
        Layout("raw", needs=(_SCENE,)),
    ),
    licence="research only",
    source="Song et al., Region-based Quality Estimation Network for Large-scale Person "
    "Re-identification, AAAI 2018",
)
_JUNK = -1
_FILE_NAME = re.compile(r"(-?\d+)_c(\d+)(?:s\d+)?_.*\.(?:jpe?g|png)", re.IGNORECASE)
_FRAME_NAME = re.compile(r".*?(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_CAMERA_NAME = re.compile(r"[a-z]*(\d+)", re.IGNORECASE)
_PERSON_NAME = re.compile(r"(\d+)")


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads LPW_s2, or scene 2 of the release by `SPLIT_RULE`; camera ids count from 0.

    Raises:
        ValueError: a folder is empty, its names do not parse, or there are more than four cameras.
    """
    train, test = _read_raw(place) if place.layout.variant == "raw" else _read_derived(place)
    return RawDomain(
        name=place.name,
        train=train,
        test=test,
        folder=place.folder,
        variant=place.layout.variant,
        facts={"split_rule": SPLIT_RULE} if place.layout.variant == "raw" else {},
    )


def _read_derived(place: Place) -> tuple[tuple[Record, ...], Split]:
    train, query, gallery = (
        tuple(
            _record(place, image.path, int(image.match[1]), int(image.match[2]))
            for image in named_images(
                place, place.folder / part, _FILE_NAME, "0002_c1s2_079984_01.jpg"
            )
            if int(image.match[1]) != _JUNK
        )
        for part in FOLDERS
    )
    return train, Split(query, gallery)


def _record(place: Place, path: Path, person_id: int, camera: int) -> Record:
    """A record of camera 1 to 4; other data sets have the same folders and more cameras."""
    if not 1 <= camera <= _NUM_CAMERAS:
        raise ValueError(
            f"{place.title}: expected cameras 1 to {_NUM_CAMERAS}, got {camera} in {path}: another "
            "data set in the same layout? Set benchmark.root to the folder of all data sets, or "
            f"set benchmark.roots.{place.name}."
        )
    return Record(str(path), person_id, camera - 1)


def _read_raw(place: Place) -> tuple[tuple[Record, ...], Split]:
    """Records of scene 2, split by `SPLIT_RULE`; sorted by person, camera and frame."""
    people: dict[int, dict[int, list[Record]]] = {}
    for camera, camera_folder in _numbered_folders(
        place, place.folder / _SCENE, _CAMERA_NAME, "view1"
    ):
        for person_id, folder in _numbered_folders(place, camera_folder, _PERSON_NAME, "181"):
            frames = named_images(place, folder, _FRAME_NAME, "10213.jpg")
            people.setdefault(person_id, {})[camera] = [
                _record(place, frame.path, person_id, camera) for frame in _spaced(frames)
            ]
    ids = sorted(people)
    num_train = len(ids) // 2
    train = [
        record
        for person_id in ids[:num_train]
        for records in people[person_id].values()
        for record in records
    ]
    query: list[Record] = []
    gallery: list[Record] = []
    for person_id in ids[num_train:]:
        own_query, own_gallery = _split_person(people[person_id])
        query += own_query
        gallery += own_gallery
    return tuple(train), Split(tuple(query), tuple(gallery))


def _numbered_folders(
    place: Place, folder: Path, pattern: re.Pattern[str], example: str
) -> list[tuple[int, Path]]:
    """The subfolders whose whole name matches, by the number in it."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )
    foreign = [name for name in names if not pattern.fullmatch(name)]
    if foreign or not names:
        raise ValueError(
            f"{place.title}: {folder}: expected folders named like {example}; found "
            f"{foreign[0] if foreign else 'nothing'}. Unpack the release anew, or take away what "
            "is not part of it."
        )
    return sorted((int(pattern.findall(name)[0]), folder / name) for name in names)


def _spaced(frames: Sequence[NamedImage]) -> list[NamedImage]:
    """At most four frames, evenly spaced in the order of their numbers, both ends included."""
    # By number: 10.jpg is later than 9.jpg, though its name comes before.
    ordered = sorted(frames, key=lambda frame: (int(frame.match[1]), frame.path.name))
    last = len(ordered) - 1
    if last < _MAX_IMAGES:
        return ordered
    return [ordered[number * last // (_MAX_IMAGES - 1)] for number in range(_MAX_IMAGES)]


def _split_person(images: dict[int, list[Record]]) -> tuple[list[Record], list[Record]]:
    """Queries and gallery of one person's images by camera.

    What remains of a camera after its first image is in the gallery for certain, so a first image
    is a query only where another camera has such a rest: then every query has a match.
    """
    with_rest = {camera for camera, records in images.items() if len(records) > 1}
    query = [records[0] for camera, records in images.items() if with_rest - {camera}]
    gallery = [record for records in images.values() for record in records if record not in query]
    return query, gallery
