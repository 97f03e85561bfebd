from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

CAMPUS = "cuhk01/CUHK01/campus"
PEOPLE = (1, 2, 3, 10, 971)


def build(folder: Path) -> None:
    for person in PEOPLE:
        for image in (1, 2, 3, 4):
            paint(folder / f"{person:04d}{image:03d}.png", person, image)
    (folder / "Thumbs.db").write_bytes(b"\0")


def _foreign_names(root: Path) -> None:
    for file in (root / CAMPUS).glob("*.png"):
        file.rename(file.with_name(f"person{file.name}"))


def _empty(root: Path) -> None:
    for file in (root / CAMPUS).iterdir():
        file.unlink()


MINIATURES = {
    "cuhk01": Miniature(
        build=lambda root: build(root / CAMPUS),
        train=(8, 2, 2),
        query=(6, 3, 1),
        gallery=(6, 3, 1),
        variant="campus",
        faults={
            "foreign names": Fault(_foreign_names, ("none of the 20 files", "named like 0001003")),
            "empty folder": Fault(_empty, ("campus is empty; expected images like",)),
        },
    ),
    "cuhk01, last split": Miniature(
        build=lambda root: build(root / "CUHK01" / "campus"),
        train=(8, 2, 2),
        query=(6, 3, 1),
        gallery=(6, 3, 1),
        variant="campus",
        options={"split_index": 19},
    ),
}
