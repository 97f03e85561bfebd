from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

PERSONS = "i-LIDS_Pedestrian/Persons"
NUM_IMAGES = {1: 4, 2: 4, 3: 4, 50: 4, 119: 4}


def build(folder: Path) -> None:
    for person, num_images in NUM_IMAGES.items():
        for image in range(1, num_images + 1):
            paint(folder / f"{person:04d}{image:03d}.jpg", person, image)


def _foreign_names(root: Path) -> None:
    for file in (root / PERSONS).iterdir():
        file.rename(file.with_name(f"img{file.name}"))


def _empty(root: Path) -> None:
    for file in (root / PERSONS).iterdir():
        file.unlink()


def _one_left(root: Path) -> None:
    for image in (1, 2, 3):
        (root / PERSONS / f"0050{image:03d}.jpg").unlink()


MINIATURES = {
    "ilids": Miniature(
        build=lambda root: build(root / PERSONS),
        train=(8, 2, 1),
        query=(3, 3, 1),
        gallery=(3, 3, 1),
        variant="Persons",
        faults={
            "one image": Fault(_one_left, ("at least two images", "person 50 has one", "Download")),
            "foreign names": Fault(_foreign_names, ("none of the 20 files", "like 0001002")),
            "empty folder": Fault(_empty, ("Persons is empty; expected images like",)),
        },
    ),
    "ilids, misspelt": Miniature(
        build=lambda root: build(root / "ilids" / "i-LIDS_Pedestrain" / "Persons"),
        train=(8, 2, 1),
        query=(3, 3, 1),
        gallery=(3, 3, 1),
        variant="Persons",
        options={"split_index": 9},
    ),
}
