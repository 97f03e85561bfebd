from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

# Pairs 247 to 299 are missing in VIPeR too; pair 0 has one name in both folders.
NAMES = {
    "cam_a": ("000_45", "001_45", "246_0", "300_0", "873_0"),
    "cam_b": ("000_45", "001_90", "246_180", "300_90", "873_180"),
}


def build(folder: Path) -> None:
    for camera, names in NAMES.items():
        for person, name in enumerate(names):
            paint(folder / camera / f"{name}.bmp", person, camera == "cam_b")
    (folder / "README.txt").write_text("VIPeR")


def _remove(name: str):
    return lambda root: (root / "viper" / "VIPeR" / name).unlink()


def _foreign_names(root: Path) -> None:
    for file in (root / "viper" / "VIPeR" / "cam_a").iterdir():
        file.rename(file.with_suffix(".tiff"))


def _empty(root: Path) -> None:
    for file in (root / "viper" / "VIPeR" / "cam_b").iterdir():
        file.unlink()


MINIATURES = {
    "viper": Miniature(
        build=lambda root: build(root / "viper" / "VIPeR"),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(3, 3, 1),
        variant="v1.0",
        faults={
            "half a pair": Fault(
                _remove("cam_b/001_90.bmp"),
                ("found 5 and 4 images, which differ in 1", "Download the missing images"),
            ),
            "foreign names": Fault(_foreign_names, ("none of the 5 files", "named like 001_45")),
            "empty folder": Fault(_empty, ("cam_b is empty; expected images like",)),
        },
    ),
    "viper, last split": Miniature(
        build=lambda root: build(root / "VIPeR"),
        train=(4, 2, 2),
        query=(3, 3, 1),
        gallery=(3, 3, 1),
        variant="v1.0",
        options={"split_index": 19},
    ),
}
