from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

DERIVED = "LPW_s2"
RAW = "pep_256x128/data_slim"


def build_derived(root: Path, below: str = DERIVED) -> None:
    """Train 0 to 3; test 9 and 12; junk -1 in the gallery."""
    folder = root / below
    for person in range(4):
        for camera in (1, 2, 4):
            name = f"{person:04d}_c{camera}s2_{camera * 26661:06d}_01.jpg"
            paint(folder / "bounding_box_train" / name, person, camera)
    for person in (9, 12):
        for camera in (1, 3):
            paint(folder / "query" / f"{person:04d}_c{camera}s2_000001_01.jpg", person, camera)
            name = f"{person:04d}_c{camera}s2_000007_01.jpg"
            paint(folder / "bounding_box_test" / name, person, camera + 1)
    paint(folder / "bounding_box_test" / "-1_c2s2_000401_01.jpg", 11)


def build_raw(root: Path, below: str = RAW) -> None:
    """Scene 2 has 2, 10, 11, 25, 100; so 2 and 10 train. 100 is seen by one camera."""
    frames = {2: 6, 10: 3, 11: 5, 25: 2, 100: 7}
    for person, num_frames in frames.items():
        for camera in (1,) if person == 100 else (1, 2, 4):
            for frame in range(num_frames):
                name = f"scen2/view{camera}/{person}/{8 + frame}.jpg"
                paint(root / below / name, person % 12, frame)
    for scene in (1, 3):
        paint(root / below / f"scen{scene}/view1/1/5.jpg", 11)


def _rename(folder: str, root: Path) -> None:
    for file in (root / folder).iterdir():
        file.rename(file.with_name(f"image {file.name}"))


def _unpack_half(folder: str, root: Path) -> None:
    for file in (root / folder).iterdir():
        file.rename(file.with_name(f"{file.name}.part"))


def _another_data_set(root: Path) -> None:
    for file in (root / DERIVED / "query").iterdir():
        file.rename(file.with_name(file.name.replace("_c3", "_c6")))


def _remove(folder: str, root: Path) -> None:
    for path in sorted((root / folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _remove_folder(folder: str, root: Path) -> None:
    _remove(folder, root)
    (root / folder).rmdir()


MINIATURES = {
    "lpw": Miniature(
        build=build_derived,
        train=(12, 4, 3),
        query=(4, 2, 2),
        gallery=(4, 2, 2),
        variant="LPW_s2",
        faults={
            "foreign names": Fault(
                partial(_rename, f"{DERIVED}/query"),
                ("none of the 4 files", "is named like 0002_c1s2_079984_01.jpg"),
            ),
            "another data set": Fault(
                _another_data_set,
                (r"expected cameras 1 to 4, got 6 in .*0009_c6s2", r"set benchmark\.roots\.lpw"),
            ),
            "empty folder": Fault(
                partial(_remove, f"{DERIVED}/query"),
                ("query is empty; expected images like 0002_c1s2_079984_01.jpg",),
            ),
            "missing folder": Fault(
                partial(_remove_folder, f"{DERIVED}/query"),
                ("expected query under", r"set benchmark\.root"),
            ),
        },
    ),
    "raw": Miniature(
        build=build_raw,
        train=(21, 2, 3),
        query=(6, 2, 3),
        gallery=(16, 3, 3),
        variant="raw",
        faults={
            "foreign names": Fault(
                partial(_unpack_half, f"{RAW}/scen2/view1/11"),
                ("none of the 5 files in .*view1/11 is named like 10213.jpg",),
            ),
            "foreign folders": Fault(
                partial(_rename, f"{RAW}/scen2"),
                ("scen2: expected folders named like view1; found image view1",),
            ),
            "empty person": Fault(
                partial(_remove, f"{RAW}/scen2/view4/10"),
                ("view4/10 is empty; expected images like 10213.jpg",),
            ),
            "empty camera": Fault(
                partial(_remove, f"{RAW}/scen2/view2"),
                ("view2: expected folders named like 181; found nothing",),
            ),
            "missing scene": Fault(
                partial(_remove_folder, f"{RAW}/scen2"),
                ("expected bounding_box_train, .* or scen2 under", r"Set benchmark\.root"),
            ),
        },
    ),
}
