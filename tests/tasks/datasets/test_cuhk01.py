from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain
from tests.tasks.datasets.miniatures.cuhk01 import PEOPLE, build


def read(root: Path, split_index: int = 0, below: str = "CUHK01") -> RawDomain:
    build(root / below / "campus")
    options = ReadOptions(derived=str(root / "derived"), split_index=split_index)
    return read_dataset("cuhk01", root, options)


def test_two_images_by_each_camera(tmp_path: Path) -> None:
    raw = read(tmp_path, split_index=1)
    found = {
        Path(record.image_path).stem: (record.person_id, record.camera_id)
        for record in (*raw.train, *raw.test.query, *raw.test.gallery)
    }
    assert found == {
        f"{person:04d}{image:03d}": (person, camera)
        for person in PEOPLE
        for image, camera in ((1, 0), (2, 0), (3, 1), (4, 1))
    }
    assert {record.camera_id for record in raw.test.query} == {1}


@pytest.mark.parametrize("below", ["CUHK01", "cuhk01", "cuhk01/CUHK01", "."])
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    raw = read(tmp_path, below=below)
    assert raw.folder == tmp_path / below
    assert len(raw.train) == 8
