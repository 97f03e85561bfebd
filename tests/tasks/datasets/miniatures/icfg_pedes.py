from __future__ import annotations

from pathlib import Path

from tests.tasks.datasets.miniatures.captioned import Entry, build, entry, list_faults
from tests.tasks.datasets.miniatures.painting import Miniature


def entries(first_test_id: int) -> list[Entry]:
    """Train 0, 1, 2, one of them from MSMT17's test folder; test two people in three images."""
    return [
        entry("train", 0, "test/0627/0627_010_05_0303noon_1313_0.jpg", "A young woman."),
        entry("train", 1, "train/0000/0000_000_01_0303morning_0015_0.jpg", "A man."),
        entry("train", 0, "test/0627/0627_011_14_0303noon_1313_1.jpg", "The woman has a cup."),
        entry("train", 2, "train/0001/0001_003_02_0113noon_0001_0.jpg", "A boy in blue."),
        entry("test", first_test_id, "test/0000/0000_002_03_0303morning_0007_1.jpg", "A boy."),
        entry("test", first_test_id, "test/0000/0000_004_03_0303morning_0009_1.jpg", "A lad."),
        entry("test", first_test_id + 1, "train/0002/0002_000_09_0114noon_0003_2.jpg", "A girl."),
    ]


def _miniature(file_name: str, first_test_id: int = 3, *, with_faults: bool = False) -> Miniature:
    def make(root: Path) -> None:
        build(root / "ICFG-PEDES", file_name, entries(first_test_id))

    return Miniature(
        build=make,
        train=(4, 3, 1),
        query=(3, 2, 1),
        gallery=(3, 2, 1),
        variant="released",
        faults=list_faults(f"ICFG-PEDES/{file_name}") if with_faults else {},
    )


MINIATURES = {
    "icfg_pedes": _miniature("ICFG-PEDES.json", with_faults=True),
    "other name": _miniature("ICFG_PEDES.json"),
    "each split from 0": _miniature("ICFG-PEDES.json", first_test_id=0),
}
