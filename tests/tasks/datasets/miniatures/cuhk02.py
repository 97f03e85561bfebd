from __future__ import annotations

import shutil
from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDER = "CUHK02"


def build(root: Path, below: str = FOLDER) -> None:
    """Persons 1 and 3 in each of the five pairs, two images by each camera; all ten differ."""
    for pair in range(1, 6):
        for person in (1, 3):
            for camera in (1, 2):
                for number in (1, 2):
                    name = f"{person:03d}_{number:02d}.png"
                    folder = root / below / f"P{pair}" / f"cam{camera}"
                    paint(folder / name, 2 * pair + person // 2, number + camera)


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "P5" / "cam1").iterdir():
        file.rename(file.with_name(f"image {file.name}"))


def _empty_camera(root: Path) -> None:
    for file in (root / FOLDER / "P2" / "cam2").iterdir():
        file.unlink()


MINIATURES = {
    "cuhk02": Miniature(
        build=build,
        train=(32, 8, 8),
        query=(4, 2, 1),
        gallery=(4, 2, 1),
        variant="five pairs",
        faults={
            "foreign names": Fault(_foreign_names, ("none of the 4 files", "is named like 001_")),
            "empty folder": Fault(_empty_camera, ("P2/cam2 is empty; expected images like",)),
            "missing camera": Fault(
                lambda root: shutil.rmtree(root / FOLDER / "P3" / "cam2"),
                ("expected P3/cam2 under", r"set benchmark\.root"),
            ),
            "missing pair": Fault(
                lambda root: shutil.rmtree(root / FOLDER / "P4"),
                ("expected P4/cam1 under", r"set benchmark\.root"),
            ),
        },
    )
}
