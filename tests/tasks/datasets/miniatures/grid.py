from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDER = "grid/underground_reid"
MAT = f"{FOLDER}/features_and_partitions.mat"
PEOPLE = (1, 2, 3, 4, 250)
TRAIN = [[1, 4], [250, 2], [3, 1]]


def build(folder: Path) -> None:
    for person in PEOPLE:
        paint(folder / "probe" / f"{person:04d}_1_25004_107_32_106_221.jpeg", person)
        paint(folder / "gallery" / f"{person:04d}_5_26001_90_31_98_210.jpeg", person, 1)
    for number in (1, 2, 3):
        paint(folder / "gallery" / f"0000_6_2600{number}_90_31_98_210.jpeg", 5 + number)
    write_partitions(folder / "features_and_partitions.mat", TRAIN)


def write_partitions(file: Path, train: list[list[int]]) -> None:
    """Write a cell array of structures with people in the third field, like the original file."""
    cell = np.empty((1, len(train)), dtype=object)
    for number, people in enumerate(train):
        cell[0, number] = {
            "probe": np.arange(9.0),
            "gallery": np.arange(7.0),
            "people": np.array([people], dtype=np.uint8),
            "rest": "text",
        }
    savemat(file, {"trainIdxAll": cell, "features": np.zeros((4, 4))})


def _truncate(root: Path) -> None:
    (root / MAT).write_bytes((root / MAT).read_bytes()[:500])


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "probe").iterdir():
        file.rename(file.with_name(f"p{file.name}"))


def _empty(root: Path) -> None:
    for file in (root / FOLDER / "gallery").iterdir():
        file.unlink()


def _without_a_gallery_image(root: Path) -> None:
    next((root / FOLDER / "gallery").glob("0250*")).unlink()


def _without_a_person(root: Path) -> None:
    for part in ("probe", "gallery"):
        next((root / FOLDER / part).glob("0250*")).unlink()


MINIATURES = {
    "grid": Miniature(
        build=lambda root: build(root / FOLDER),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(6, 4, 1),
        variant="underground_reid",
        faults={
            "truncated partitions": Fault(
                _truncate, ("expected a MATLAB file of version 5", "download it again")
            ),
            "not a MATLAB file": Fault(
                lambda root: (root / MAT).write_text("no MATLAB") and None,
                ("expected a MATLAB file of version 5", "download it again"),
            ),
            "no partitions": Fault(
                lambda root: (root / MAT).unlink(),
                ("expected features_and_partitions.mat under", r"set benchmark\.root"),
            ),
            "other variables": Fault(
                lambda root: savemat(root / MAT, {"x": np.zeros(3)}),
                ("expected trainIdxAll in .*; it has x", "Download the original file"),
            ),
            "people without images": Fault(
                _without_a_person, ("split 1 lists 2, of whom 1 have one", "original file")
            ),
            "a person twice": Fault(
                lambda root: write_partitions(root / MAT, [[1, 1]]), ("split 0 lists 2, of whom 1",)
            ),
            "everybody trains": Fault(
                lambda root: write_partitions(root / MAT, [list(PEOPLE)]), ("split 0 lists 5",)
            ),
            "half a pair": Fault(
                _without_a_gallery_image, ("person 250 is in one of them", "Download the missing")
            ),
            "foreign names": Fault(_foreign_names, ("none of the 5 files", "named like 0001_1_")),
            "empty folder": Fault(_empty, ("gallery is empty; expected images like",)),
        },
    ),
    "grid, last split": Miniature(
        build=lambda root: build(root / "underground_reid"),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(6, 4, 1),
        variant="underground_reid",
        options={"split_index": 2},
    ),
}
