from __future__ import annotations

from pathlib import Path

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain
from tests.tasks.datasets.miniatures.viper import NAMES, build


def read(root: Path, split_index: int) -> RawDomain:
    build(root / "data" / "viper" / "VIPeR")
    options = ReadOptions(derived=str(root / "derived"), split_index=split_index)
    return read_dataset("viper", root / "data", options)


def test_person_id_is_index_of_pair(tmp_path: Path) -> None:
    raw = read(tmp_path, 0)
    for record in (*raw.train, *raw.test.query, *raw.test.gallery):
        camera = ("cam_a", "cam_b")[record.camera_id]
        name = f"{NAMES[camera][record.person_id]}.bmp"
        assert Path(record.image_path).parts[-2:] == (camera, name)


def test_odd_splits_swap_cameras(tmp_path: Path) -> None:
    even, odd = read(tmp_path, 4), read(tmp_path, 5)
    assert {record.camera_id for record in even.test.query} == {0}
    assert (even.train, even.test.query, even.test.gallery) == (
        odd.train,
        odd.test.gallery,
        odd.test.query,
    )
    assert even.facts["split_sha256"] != odd.facts["split_sha256"]
