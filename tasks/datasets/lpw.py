"""LPW, Labeled Pedestrian in the Wild: scene 2, four cameras.

Two variants are supported; they are different data sets:

- `LPW_s2/`, derived from scene 2 by the lifelong re-identification literature to replace the
  withdrawn DukeMTMC-reID. Layout of Market-1501: `0002_c1s2_079984_01.jpg` is person 2, camera 1;
  person -1 is junk and skipped. There are no distractors, so person 0 is an ordinary person.
- The authors' release, `pep_256x128/data_slim/scen2/<camera>/<person>/*.jpg`. The exact selection
  of images and test people of LPW_s2 is not published. `SPLIT_RULE` is a similar rule of this
  project; the result is **not** LPW_s2. The protocol lock records the variant "raw" and the rule.

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
    LocatedDataset,
    NamedImage,
    ReadOptions,
    check_spellings,
    is_system_name,
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
_FILE_NAME = re.compile(r"(?P<person>-?\d+)_c(\d+)(?:s\d+)?_.*\.(?:jpe?g|png)", re.IGNORECASE)
_FRAME_NAME = re.compile(r".*?(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_CAMERA_NAME = re.compile(r"[a-z]*(\d+)", re.IGNORECASE)
_PERSON_NAME = re.compile(r"(\d+)")


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read LPW_s2, or scene 2 of the release split by `SPLIT_RULE`; camera ids start at 0.

    Raises:
        ValueError: a folder is empty, file names do not parse, or there are more than four
            cameras.
    """
    train, test = _read_raw(dataset) if dataset.layout.variant == "raw" else _read_derived(dataset)
    return RawDomain(
        name=dataset.name,
        train=train,
        test=test,
        folder=dataset.folder,
        variant=dataset.layout.variant,
        facts={"split_rule": SPLIT_RULE} if dataset.layout.variant == "raw" else {},
    )


def _read_derived(dataset: LocatedDataset) -> tuple[tuple[Record, ...], Split]:
    train, query, gallery = (
        tuple(
            _record(dataset, image.path, int(image.match[1]), int(image.match[2]))
            for image in named_images(
                dataset, dataset.folder / part, _FILE_NAME, "0002_c1s2_079984_01.jpg"
            )
            if int(image.match[1]) != _JUNK
        )
        for part in FOLDERS
    )
    return train, Split(query, gallery)


def _record(dataset: LocatedDataset, path: Path, person_id: int, camera: int) -> Record:
    """Create a record; reject cameras above 4, which other data sets in this layout have."""
    if not 1 <= camera <= _NUM_CAMERAS:
        raise ValueError(
            f"{dataset.title}: expected cameras 1 to {_NUM_CAMERAS}, got {camera} in {path}; is "
            "this another data set in the same layout? Set benchmark.root to the folder of all "
            f"data sets, or set benchmark.roots.{dataset.name}."
        )
    return Record(str(path), person_id, camera - 1)


def _read_raw(dataset: LocatedDataset) -> tuple[tuple[Record, ...], Split]:
    """Read scene 2 and split it by `SPLIT_RULE`; sorted by person, camera and frame."""
    people: dict[int, dict[int, list[Record]]] = {}
    for camera, camera_folder in _numbered_folders(
        dataset, dataset.folder / _SCENE, _CAMERA_NAME, "view1"
    ):
        for person_id, folder in _numbered_folders(dataset, camera_folder, _PERSON_NAME, "181"):
            frames = named_images(dataset, folder, _FRAME_NAME, "10213.jpg")
            people.setdefault(person_id, {})[camera] = [
                _record(dataset, frame.path, person_id, camera) for frame in _select_frames(frames)
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
        person_query, person_gallery = _split_person(people[person_id])
        query += person_query
        gallery += person_gallery
    return tuple(train), Split(tuple(query), tuple(gallery))


def _numbered_folders(
    dataset: LocatedDataset, folder: Path, pattern: re.Pattern[str], example: str
) -> list[tuple[int, Path]]:
    """List the subfolders with the number in their name, sorted by it."""
    with os.scandir(folder) as entries:
        listed = [entry for entry in entries if not is_system_name(entry.name)]
        names = sorted(entry.name for entry in listed if entry.is_dir())
    unexpected = [name for name in names if not pattern.fullmatch(name)]
    if unexpected or not names:
        files = sorted(entry.name for entry in listed)
        found = unexpected[0] if unexpected else f"only files ({files[0]})" if files else "nothing"
        raise ValueError(
            f"{dataset.title}: {folder}: expected folders named like {example}; found {found}. "
            "Unpack the release again, or remove folders that are not part of it."
        )
    numbers = [(pattern.findall(name)[0], str(folder / name)) for name in names]
    check_spellings(dataset, numbers)
    return sorted((int(number), Path(path)) for number, path in numbers)


def _select_frames(frames: Sequence[NamedImage]) -> list[NamedImage]:
    """Select at most four frames, evenly spaced by number, including first and last."""
    # Numeric order: 10.jpg follows 9.jpg.
    ordered = sorted(frames, key=lambda frame: (int(frame.match[1]), frame.path.name))
    last = len(ordered) - 1
    if last < _MAX_IMAGES:
        return ordered
    return [ordered[number * last // (_MAX_IMAGES - 1)] for number in range(_MAX_IMAGES)]


def _split_person(images: dict[int, list[Record]]) -> tuple[list[Record], list[Record]]:
    """Split the images of one person, given by camera, into queries and gallery.

    The first image of a camera is a query only if another camera has at least two images. The
    second of these is always in the gallery, so every query has a match.
    """
    multiple = {camera for camera, records in images.items() if len(records) > 1}
    query = [records[0] for camera, records in images.items() if multiple - {camera}]
    gallery = [record for records in images.values() for record in records if record not in query]
    return query, gallery
