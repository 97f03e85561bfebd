from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDER = "SenseReID"


def build(root: Path, below: str = FOLDER) -> None:
    """Queries of 2 and 5 by both cameras; the gallery also holds 7 and 11."""
    for person in (2, 5, 7, 11):
        for camera in (0, 1):
            name = f"{person:05d}_{camera}.jpg"
            paint(root / below / "test_gallery" / name, person, camera)
            if person < 7:
                paint(root / below / "test_probe" / name, person, camera + 1)


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "test_probe").iterdir():
        file.rename(file.with_name(f"image {file.name}"))


def _empty_probe(root: Path) -> None:
    for file in (root / FOLDER / "test_probe").iterdir():
        file.unlink()


def _no_probe(root: Path) -> None:
    _empty_probe(root)
    (root / FOLDER / "test_probe").rmdir()


MINIATURES = {
    "sensereid": Miniature(
        build=build,
        train=(0, 0, 0),
        query=(4, 2, 2),
        gallery=(8, 4, 2),
        variant="test only",
        faults={
            "foreign names": Fault(_foreign_names, ("none of the 4 files", "is named like 00001_")),
            "empty folder": Fault(_empty_probe, ("test_probe is empty; expected images like",)),
            "missing folder": Fault(
                _no_probe, ("expected test_probe under", r"set benchmark\.root")
            ),
        },
    )
}
