from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain, Record
from tests.tasks.datasets.miniatures.prid2011 import build


def read(root: Path, splits: Any = None) -> RawDomain:
    build(root / "prid2011" / "prid_2011" / "single_shot")
    files: dict[str, str] = {}
    if splits is not None:
        (root / "splits_single_shot.json").write_text(json.dumps(splits))
        files = {"prid2011": str(root / "splits_single_shot.json")}
    options = ReadOptions(derived=str(root / "derived"), split_files=files)
    return read_dataset("prid2011", root, options)


def persons(records: tuple[Record, ...]) -> list[int]:
    return sorted({record.person_id for record in records})


def test_people_of_camera_b_only_are_distractors(tmp_path: Path) -> None:
    raw = read(tmp_path)
    assert persons(raw.test.gallery) == [*persons(raw.test.query), 201, 600, 749]
    assert {record.camera_id for record in raw.test.query} == {0}
    assert {record.camera_id for record in raw.test.gallery} == {1}
    used = (*raw.train, *raw.test.query, *raw.test.gallery)
    assert not [each for each in used if each.camera_id == 0 and each.person_id > 200]


def test_split_file_with_people(tmp_path: Path) -> None:
    raw = read(tmp_path, [{"train": [2, 200], "test": [1, 3, 199]}])
    assert persons(raw.train) == [2, 200]
    assert persons(raw.test.query) == [1, 3, 199]
    assert persons(raw.test.gallery) == [1, 3, 199, 201, 600, 749]
    assert raw.facts["split_source"] == "file"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([2, 201, 600], r"split 0 lists person 201 and 1 more, but .* has people 1 to 200"),
        ([2, 3, 1], r"split 0: person 1 and 1 more are in training and test"),
        ([], r"split 0: expected a list of images under 'train'"),
    ],
)
def test_invalid_lists_of_people(tmp_path: Path, train: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, [{"train": train, "test": [1, 3, 199]}])
