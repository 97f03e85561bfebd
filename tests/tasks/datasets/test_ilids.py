from __future__ import annotations

import json
from pathlib import Path

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tests.tasks.datasets.miniatures.ilids import NUM_IMAGES, build


def test_two_images_of_each_test_person(tmp_path: Path) -> None:
    build(tmp_path / "ilids" / "i-LIDS_Pedestrian" / "Persons")
    drawn: set[tuple[str, ...]] = set()
    for split_index in range(10):
        options = ReadOptions(derived=str(tmp_path / "derived"), split_index=split_index)
        raw = read_dataset("ilids", tmp_path, options)
        trained = {record.person_id for record in raw.train}
        assert len(raw.train) == sum(NUM_IMAGES[person] for person in trained)
        queries = [record.person_id for record in raw.test.query]
        assert queries == sorted(set(NUM_IMAGES) - trained)
        assert queries == [record.person_id for record in raw.test.gallery]
        for query, found in zip(raw.test.query, raw.test.gallery, strict=True):
            assert query.image_path != found.image_path
            assert (query.camera_id, found.camera_id) == (0, 1)
        drawn.add(tuple(record.image_path for record in (*raw.test.query, *raw.test.gallery)))
    assert len(drawn) == 10


def test_split_file_with_bare_names(tmp_path: Path) -> None:
    build(tmp_path / "i-LIDS_Pedestrian" / "Persons")
    split = {
        "train": ["0001001.jpg", "0001002.jpg", "0050004.jpg"],
        "query": ["0002003.jpg", "0119001.jpg"],
        "gallery": ["0119004.jpg", "0002001.jpg"],
    }
    (tmp_path / "splits.json").write_text(json.dumps([split]))
    options = ReadOptions(split_files={"ilids": str(tmp_path / "splits.json")})
    raw = read_dataset("ilids", tmp_path, options)
    assert [Path(record.image_path).name for record in raw.train] == split["train"]
    assert [(each.person_id, each.camera_id) for each in raw.test.query] == [(2, 0), (119, 0)]
    assert [(each.person_id, each.camera_id) for each in raw.test.gallery] == [(2, 1), (119, 1)]
