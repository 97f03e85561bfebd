from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.protocol.lock import num_queries_without_match
from tasks.reading import dataset_facts, read_dataset
from tasks.schema import Record
from tests.tasks.datasets.miniatures.lpw import build_derived, build_raw
from tests.tasks.datasets.miniatures.painting import paint


def short_paths(records: Iterable[Record]) -> list[str]:
    """camera/person/frame of raw images."""
    return ["/".join(Path(record.image_path).with_suffix("").parts[-3:]) for record in records]


def test_person_0_is_kept_and_junk_is_skipped(tmp_path: Path) -> None:
    build_derived(tmp_path)
    raw = read_dataset("lpw", tmp_path, ReadOptions())
    assert sorted({record.person_id for record in raw.train}) == [0, 1, 2, 3]
    assert {record.camera_id for record in raw.train} == {0, 1, 3}
    assert {record.person_id for record in raw.test.gallery} == {9, 12}
    assert "split_rule" not in raw.facts


def test_raw_release_is_recorded_as_another_variant(tmp_path: Path) -> None:
    build_raw(tmp_path)
    raw = read_dataset("lpw", tmp_path, ReadOptions())
    assert raw.variant == "raw"
    assert "at most 4 images" in raw.facts["split_rule"]


def test_raw_people_are_split_in_numeric_order(tmp_path: Path) -> None:
    build_raw(tmp_path)
    raw = read_dataset("lpw", tmp_path, ReadOptions())
    assert sorted({record.person_id for record in raw.train}) == [2, 10]
    assert sorted({record.person_id for record in raw.test.gallery}) == [11, 25, 100]


def test_raw_frames_are_selected_in_numeric_order(tmp_path: Path) -> None:
    build_raw(tmp_path)
    raw = read_dataset("lpw", tmp_path, ReadOptions())
    assert short_paths(raw.train[:4]) == [f"view1/2/{frame}" for frame in (8, 9, 11, 13)]
    assert short_paths(each for each in raw.train if each.person_id == 10)[:3] == [
        "view1/10/8",
        "view1/10/9",
        "view1/10/10",
    ]


def test_raw_queries_are_first_images_and_not_in_the_gallery(tmp_path: Path) -> None:
    build_raw(tmp_path)
    test = read_dataset("lpw", tmp_path, ReadOptions()).test
    assert short_paths(test.query) == [
        f"view{camera}/{person}/8" for person in (11, 25) for camera in (1, 2, 4)
    ]
    assert not set(short_paths(test.query)) & set(short_paths(test.gallery))
    assert len(short_paths(each for each in test.gallery if each.person_id == 100)) == 4


@pytest.mark.parametrize(
    ("frames_by_camera", "query_cameras"),
    [
        ({1: 1, 2: 1}, []),
        ({1: 1, 2: 2}, ["view1"]),
        ({1: 2, 2: 2}, ["view1", "view2"]),
        ({1: 1, 2: 1, 3: 2}, ["view1", "view2"]),
        ({1: 3}, []),
    ],
)
def test_raw_queries_have_a_match(
    tmp_path: Path, frames_by_camera: dict[int, int], query_cameras: list[str]
) -> None:
    build_raw(tmp_path)
    for camera, num_frames in frames_by_camera.items():
        for frame in range(num_frames):
            path = f"pep_256x128/data_slim/scen2/view{camera}/999/{frame}.jpg"
            paint(tmp_path / path, 5, frame)
    test = read_dataset("lpw", tmp_path, ReadOptions()).test
    assert num_queries_without_match(test) == 0
    queries = [path for path in short_paths(test.query) if "/999/" in path]
    assert queries == [f"{camera}/999/0" for camera in query_cameras]
    num_frames = sum(frames_by_camera.values())
    assert sum(each.person_id == 999 for each in test.gallery) == num_frames - len(query_cameras)


@pytest.mark.parametrize("below", dataset_facts("lpw").folders)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    (build_raw if below.endswith("data_slim") else build_derived)(tmp_path, below)
    assert read_dataset("lpw", tmp_path, ReadOptions()).folder == tmp_path / below
