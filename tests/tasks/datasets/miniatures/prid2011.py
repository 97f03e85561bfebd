from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

PEOPLE = {"cam_a": (1, 2, 3, 199, 200, 201, 385), "cam_b": (1, 2, 3, 199, 200, 201, 600, 749)}
FOLDER = "prid2011/single_shot"


def build(folder: Path) -> None:
    for camera, people in PEOPLE.items():
        for person in people:
            paint(folder / camera / f"person_{person:04d}.png", person, camera == "cam_b")


def _foreign_names(root: Path) -> None:
    for file in (root / FOLDER / "cam_a").iterdir():
        file.rename(file.with_name(f"a {file.name}"))


def _empty(root: Path) -> None:
    for file in (root / FOLDER / "cam_b").iterdir():
        file.unlink()


MINIATURES = {
    "prid2011": Miniature(
        build=lambda root: build(root / FOLDER),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(6, 6, 1),
        variant="single_shot",
        faults={
            "one view": Fault(
                lambda root: (root / FOLDER / "cam_b" / "person_0199.png").unlink(),
                (
                    "in both single_shot/cam_a and",
                    "person 199 is in one",
                    "Download the missing images",
                ),
            ),
            "foreign names": Fault(_foreign_names, ("none of the 7 files", "like person_0001")),
            "empty folder": Fault(_empty, ("cam_b is empty; expected images like",)),
        },
    ),
    "prid2011, last split": Miniature(
        build=lambda root: build(root / "prid2011" / "prid_2011" / "single_shot"),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(6, 6, 1),
        variant="single_shot",
        options={"split_index": 9},
    ),
}
