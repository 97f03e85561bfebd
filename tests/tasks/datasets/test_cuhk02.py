from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_facts, read_dataset
from tests.tasks.datasets.miniatures.cuhk02 import build


def test_equal_numbers_in_different_pairs_are_different_people(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read_dataset("cuhk02", tmp_path, ReadOptions())
    cameras_of: dict[int, set[int]] = {}
    for record in raw.train:
        cameras_of.setdefault(record.person_id, set()).add(record.camera_id)
    assert cameras_of == {
        1_000_001: {0, 1},
        1_000_003: {0, 1},
        2_000_001: {2, 3},
        2_000_003: {2, 3},
        3_000_001: {4, 5},
        3_000_003: {4, 5},
        4_000_001: {6, 7},
        4_000_003: {6, 7},
    }


def test_fifth_pair_is_the_test_split(tmp_path: Path) -> None:
    build(tmp_path)
    test = read_dataset("cuhk02", tmp_path, ReadOptions()).test
    assert {(each.person_id, each.camera_id) for each in test.query} == {
        (5_000_001, 8),
        (5_000_003, 8),
    }
    assert {record.camera_id for record in test.gallery} == {9}
    assert all("/P5/cam2/" in record.image_path for record in test.gallery)


def test_ids_do_not_depend_on_missing_people(tmp_path: Path) -> None:
    build(tmp_path)
    before = read_dataset("cuhk02", tmp_path, ReadOptions()).test
    for file in (tmp_path / "CUHK02" / "P1").glob("cam*/003_*"):
        file.unlink()
    assert read_dataset("cuhk02", tmp_path, ReadOptions()).test == before


@pytest.mark.parametrize("below", dataset_facts("cuhk02").folders)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    build(tmp_path, below)
    assert read_dataset("cuhk02", tmp_path, ReadOptions()).folder == tmp_path / below
