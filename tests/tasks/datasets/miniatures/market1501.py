from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def build_market_layout(folder: Path) -> None:
    """Train 2, 7, 8, 9; test 1, 3; junk -1 and a distractor 0 in the gallery."""
    for person in (2, 7, 8, 9):
        for camera in (1, 3, 6):
            name = f"{person:04d}_c{camera}s1_{camera:06d}_01.jpg"
            paint(folder / "bounding_box_train" / name, person, camera)
    for person in (1, 3):
        for camera in (1, 2):
            paint(folder / "query" / f"{person:04d}_c{camera}s1_000001_00.jpg", person, camera)
            name = f"{person:04d}_c{camera}s1_000002_01.jpg"
            paint(folder / "bounding_box_test" / name, person, camera + 1)
    paint(folder / "bounding_box_test" / "0000_c3s1_000001_02.jpg", 10)
    paint(folder / "bounding_box_test" / "-1_c1s1_000401_03.jpg", 11)
    (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"\0")


def _foreign_names(root: Path) -> None:
    for file in (root / "Market-1501-v15.09.15" / "query").iterdir():
        file.rename(file.with_name(f"image {file.name}"))


def _empty_query(root: Path) -> None:
    for file in (root / "Market-1501-v15.09.15" / "query").iterdir():
        file.unlink()


def _no_query(root: Path) -> None:
    _empty_query(root)
    (root / "Market-1501-v15.09.15" / "query").rmdir()


MINIATURES = {
    "market1501": Miniature(
        build=lambda root: build_market_layout(root / "Market-1501-v15.09.15"),
        train=(12, 4, 3),
        query=(4, 2, 2),
        gallery=(5, 3, 3),
        variant="v15.09.15",
        faults={
            "foreign names": Fault(
                _foreign_names, ("none of the 4 files", "is named like 0002_c1")
            ),
            "empty folder": Fault(_empty_query, ("query is empty; expected images like",)),
            "missing folder": Fault(
                _no_query, ("expected query under", r"Set|set benchmark\.root")
            ),
        },
    )
}
