from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDER = "DukeMTMC-reID"


def build(root: Path, below: str = FOLDER) -> None:
    """Train 1, 5, 19; test 2, 12 and a person that is in the gallery alone; no junk."""
    folder = root / below
    for person in (1, 5, 19):
        for camera in (2, 5, 8):
            name = f"{person:04d}_c{camera}_f{camera * 5773:07d}.jpg"
            paint(folder / "bounding_box_train" / name, person, camera)
    for person in (2, 12):
        for camera in (1, 7):
            paint(folder / "query" / f"{person:04d}_c{camera}_f0046182.jpg", person, camera)
            paint(folder / "bounding_box_test" / f"{person:04d}_c{camera}_f0046302.jpg", person)
    paint(folder / "bounding_box_test" / "7132_c3_f0083452.jpg", 9)


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "query").iterdir():
        file.rename(file.with_name(f"image {file.name}"))


def _market_names(root: Path) -> None:
    for folder in (root / FOLDER).iterdir():
        for file in folder.iterdir():
            file.rename(file.with_name(file.name.replace("_f", "s1_").replace(".jpg", "_01.jpg")))


def _empty_query(root: Path) -> None:
    for file in (root / FOLDER / "query").iterdir():
        file.unlink()


def _no_query(root: Path) -> None:
    _empty_query(root)
    (root / FOLDER / "query").rmdir()


MINIATURES = {
    "dukemtmc": Miniature(
        build=build,
        train=(9, 3, 3),
        query=(4, 2, 2),
        gallery=(5, 3, 3),
        variant="reID",
        faults={
            "foreign names": Fault(_foreign_names, ("none of the 4 files", "is named like")),
            "another data set": Fault(
                _market_names,
                ("expected images like 0001_c2_f0046182", r"set benchmark\.roots\.dukemtmc"),
            ),
            "empty folder": Fault(_empty_query, ("query is empty; expected images like",)),
            "missing folder": Fault(_no_query, ("expected query under", r"set benchmark\.root")),
        },
    )
}
