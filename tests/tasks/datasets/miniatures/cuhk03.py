from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint, person_image
from tests.tasks.datasets.miniatures.split_faults import split_file_faults

FOLDER, RAW = "CUHK03_lifelong", "cuhk03"
MAT = f"{RAW}/cuhk03_release/cuhk-03.mat"
NUM_PEOPLE = (4, 1, 2)
"""Number of people by camera pair; the new protocol tests those of the last pair and 1_004."""
TESTED = ((1, 4), (3, 1), (3, 2))
MISSING = {"labeled": ("1_002_2_10", "2_001_1_01"), "detected": ("1_001_1_05", "3_002_2_08")}
NUMBERS = (1, 5, 6, 8, 10)
"""Cells of a person, of ten, that contain an image."""


def names(boxes: str) -> list[str]:
    """Sorted names of the existing images."""
    return [
        name
        for pair, num_people in enumerate(NUM_PEOPLE, start=1)
        for person in range(1, num_people + 1)
        for number in NUMBERS
        for name in [f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}"]
        if name not in MISSING[boxes]
    ]


def pixels(name: str, boxes: str) -> np.ndarray:
    """Pixels of an image, with individual height and different width and height."""
    pair, person, _, number = map(int, name.split("_"))
    image = person_image(10 * pair + person, number)[: 20 + number].copy()
    image[:3, :2] = (255, 0, 7 if boxes == "labeled" else 77)
    return image


def people_of(name: str) -> tuple[int, int]:
    return int(name[0]), int(name[2:5])


def new_split(boxes: str) -> dict[str, list[str]]:
    tested = [name for name in names(boxes) if people_of(name) in TESTED]
    query = [name for name in tested if name.endswith(("_01", "_06"))]
    return {
        "train": [name for name in names(boxes) if people_of(name) not in TESTED],
        "query": query,
        "gallery": [name for name in tested if name not in query],
    }


def classic_splits(boxes: str) -> list[dict[str, list[str]]]:
    return [
        {
            "train": [name for name in names(boxes) if people_of(name) not in tested],
            "query": [name for name in names(boxes) if people_of(name) in tested],
            "gallery": [name for name in names(boxes) if people_of(name) in tested],
        }
        for tested in CLASSIC
    ]


CLASSIC = [TESTED, ((1, 2), (2, 1)), ((1, 1), (1, 3))]


def build_extracted(folder: Path) -> None:
    """Extracted form of other projects: foreign absolute paths, people renumbered in each list."""
    for boxes in ("labeled", "detected"):
        for name in names(boxes):
            pair, person = people_of(name)
            paint(folder / f"images_{boxes}" / f"{name}.png", 10 * pair + person)
        for protocol, splits in (("new", [new_split(boxes)]), ("classic", classic_splits(boxes))):
            listed = [_foreign_split(split, boxes) for split in splits]
            (folder / f"splits_{protocol}_{boxes}.json").write_text(json.dumps(listed))


def _foreign_split(split: dict[str, list[str]], boxes: str) -> dict[str, Any]:
    listed: dict[str, Any] = {"num_train_pids": len({name[:5] for name in split["train"]})}
    for part, images in split.items():
        of = split["train"] if part == "train" else split["query"] + split["gallery"]
        numbers = {person: number for number, person in enumerate(sorted({n[:5] for n in of}))}
        listed[part] = [
            [f"/home/jo/data/cuhk03/images_{boxes}/{n}.png", numbers[n[:5]], int(n[6]) - 1]
            for n in images
        ]
    return listed


def build_raw(folder: Path) -> None:
    """MATLAB files: HDF5 with reversed dimensions, and version 5."""
    (folder / "cuhk03_release").mkdir(parents=True)
    with h5py.File(folder / "cuhk03_release" / "cuhk-03.mat", "w") as mat:
        for boxes in ("labeled", "detected"):
            pairs = [
                _cell(mat, (boxes, pair), _person_cells(mat, boxes, pair, num_people))
                for pair, num_people in enumerate(NUM_PEOPLE, start=1)
            ]
            mat[boxes] = _references([pairs])
        tested = [
            _cell(mat, ("testsets", number), np.array(people, dtype=float).T)
            for number, people in enumerate(CLASSIC)
        ]
        mat["testsets"] = _references([tested])
    for boxes in ("labeled", "detected"):
        write_protocol(folder / f"cuhk03_new_protocol_config_{boxes}.mat", boxes)


def _person_cells(mat: h5py.File, boxes: str, pair: int, num_people: int) -> np.ndarray:
    """References [10, people]: MATLAB's people x 10."""
    existing = set(names(boxes))
    cells: list[list[h5py.Reference]] = []
    for number in range(1, 11):
        row: list[h5py.Reference] = []
        for person in range(1, num_people + 1):
            name = f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}"
            content = pixels(name, boxes).T if name in existing else np.zeros(2, dtype=np.uint64)
            row.append(_cell(mat, (boxes, name), content))
        cells.append(row)
    return _references(cells)


def _cell(mat: h5py.File, key: tuple[object, ...], content: np.ndarray) -> h5py.Reference:
    name = "#refs#/" + "-".join(map(str, key))
    mat[name] = content
    return mat[name].ref


def _references(rows: list[list[h5py.Reference]]) -> np.ndarray:
    return np.array(rows, dtype=h5py.ref_dtype)


def write_protocol(file: Path, boxes: str, **changes: object) -> None:
    listed = names(boxes)[::-1]
    filelist = np.empty((len(listed), 1), dtype=object)
    filelist[:, 0] = [f"{name}.png" for name in listed]
    content: dict[str, object] = {
        f"{part}_idx": np.array([[listed.index(name) + 1] for name in images], dtype=float)
        for part, images in new_split(boxes).items()
    }
    savemat(
        file, {"filelist": filelist, "labels": np.zeros((len(listed), 1)), **content, **changes}
    )


def _damage_protocol(**changes: object):
    file = f"{RAW}/cuhk03_new_protocol_config_labeled.mat"
    return lambda root: write_protocol(root / file, "labeled", **changes)


def _truncate(file: str, share: float):
    def damage(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: int(share * len(content))])

    return damage


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "images_labeled").iterdir():
        file.rename(file.with_name(f"p{file.name}"))


def _empty(root: Path) -> None:
    for file in (root / FOLDER / "images_labeled").iterdir():
        file.unlink()


def _other_raw_file(root: Path) -> None:
    with h5py.File(root / MAT, "w") as mat:
        mat["labels"] = np.zeros(3)


RAW_FAULTS = {
    "truncated raw file": Fault(_truncate(MAT, 0.5), ("damaged or incomplete; download it again",)),
    "another raw file": Fault(_other_raw_file, ("not the MATLAB file of version 7.3", "labeled")),
    "no protocol": Fault(
        lambda root: (root / RAW / "cuhk03_new_protocol_config_labeled.mat").unlink(),
        ("expected cuhk03_new_protocol_config_labeled.mat", r"set benchmark\.cuhk03_protocol"),
    ),
    "truncated protocol": Fault(
        _truncate(f"{RAW}/cuhk03_new_protocol_config_labeled.mat", 0.5),
        ("expected a MATLAB file of version 5", "download it again"),
    ),
    "a missing image": Fault(
        _damage_protocol(filelist=np.array([["1_001_1_02.png"]] * 50, dtype=object)),
        ("lists images_labeled/1_001_1_02.png and .* more, which .* does not contain",),
    ),
    "foreign names in the protocol": Fault(
        _damage_protocol(filelist=np.array([["cam1.png"]] * 50, dtype=object)),
        ("names like 1_001_1_01.png in filelist .* got 'cam1.png'",),
    ),
    "indices from 0": Fault(
        _damage_protocol(query_idx=np.array([[0.0]])), ("indices from 1 to 33 in query_idx",)
    ),
}

MINIATURES = {
    "cuhk03": Miniature(
        build=lambda root: build_extracted(root / FOLDER),
        train=(18, 4, 2),
        query=(6, 3, 2),
        gallery=(9, 3, 2),
        variant="extracted",
        faults={
            **split_file_faults(f"{FOLDER}/splits_new_labeled.json"),
            "no splits": Fault(
                lambda root: (root / FOLDER / "splits_new_labeled.json").unlink(),
                ("expected splits_new_labeled.json under .*Download it, or cuhk03_release",),
            ),
            "foreign names": Fault(_foreign_names, ("none of the 33 files", "like 1_001_2_06")),
            "empty folder": Fault(_empty, ("images_labeled is empty; expected images like",)),
        },
    ),
    "cuhk03, classic, detected": Miniature(
        build=lambda root: build_extracted(root / "cuhk03"),
        train=(24, 5, 2),
        query=(9, 2, 2),
        gallery=(9, 2, 2),
        variant="extracted",
        options={"cuhk03_protocol": "classic", "cuhk03_boxes": "detected", "split_index": 2},
    ),
    "cuhk03, raw": Miniature(
        build=lambda root: build_raw(root / RAW),
        train=(18, 4, 2),
        query=(6, 3, 2),
        gallery=(9, 3, 2),
        variant="extracted from raw",
        options={"split_index": 15},
        faults=RAW_FAULTS,
    ),
    "cuhk03, raw, classic, detected": Miniature(
        build=lambda root: build_raw(root / "CUHK03"),
        train=(24, 5, 2),
        query=(9, 2, 2),
        gallery=(9, 2, 2),
        variant="extracted from raw",
        options={"cuhk03_protocol": "classic", "cuhk03_boxes": "detected", "split_index": 2},
    ),
}
