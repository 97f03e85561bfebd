from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def read(root: Path) -> RawDomain:
    return read_dataset("market1501", root, ReadOptions())


def make(root: Path, **files: list[str]) -> Path:
    usual = {
        TRAIN: ["0002_c1s1_000451_03.jpg", "0007_c6s3_010000_01.jpg", "0002_c2s1_000001_01.jpg"],
        QUERY: ["0001_c1s1_001051_00.jpg"],
        GALLERY: ["0001_c2s1_000001_01.jpg", "0000_c3s1_000001_02.jpg", "-1_c1s1_000401_03.jpg"],
    }
    for folder, names in (usual | files).items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(b"")
    return root


def test_reads_persons_and_cameras_in_name_order(tmp_path: Path) -> None:
    raw = read(make(tmp_path))
    assert raw.name == "market1501"
    assert [(record.person_id, record.camera_id) for record in raw.train] == [
        (2, 0),
        (2, 1),
        (7, 5),
    ]
    assert raw.train[0].image_path == str(tmp_path / TRAIN / "0002_c1s1_000451_03.jpg")
    assert raw.description_file is None


def test_junk_is_skipped_and_distractors_stay_in_the_gallery(tmp_path: Path) -> None:
    names = ["0000_c1s1_000001_00.jpg", "-1_c1s1_000002_00.jpg", "0003_c1s1_000003_00.jpg"]
    raw = read(make(tmp_path, **{TRAIN: names, QUERY: names, GALLERY: names}))
    assert [record.person_id for record in raw.train] == [3]
    assert [record.person_id for record in raw.test.query] == [3]
    assert [record.person_id for record in raw.test.gallery] == [0, 3]


def test_only_base_names_are_parsed(tmp_path: Path) -> None:
    raw = read(make(tmp_path / "12_c3" / "0099_c9s1_000001_00.jpg"))
    assert {record.person_id for record in raw.train} == {2, 7}


@pytest.mark.parametrize(
    "below",
    [
        "Market-1501",
        "Market-1501-v15.09.15",
        "market1501",
        "market1501/Market-1501",
        "market1501/Market-1501-v15.09.15",
    ],
)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    make(tmp_path / below)
    (tmp_path / below).parent.joinpath("market1501_description.txt").write_text("")
    raw = read(tmp_path)
    assert len(raw.train) == 3
    assert raw.description_file == (tmp_path / below).parent / "market1501_description.txt"


def test_other_files_are_ignored_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, query=["image.jpg", "Thumbs.db", "0001_c1s1_001051_00.jpg", "notes.jpg"])
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path).test.query) == 1
    assert "ignored 2 files" in caplog.text


def test_missing_folder_lists_existing_files(tmp_path: Path) -> None:
    (tmp_path / "market" / GALLERY).mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        read(tmp_path / "market")
    assert str(error.value) == (
        f"Market-1501: expected bounding_box_train under {tmp_path / 'market'}; "
        "found bounding_box_test/. Complete the data set, or set benchmark.root or "
        "benchmark.roots.market1501."
    )


def test_empty_folder(tmp_path: Path) -> None:
    make(tmp_path, query=[])
    with pytest.raises(ValueError, match=r"query is empty; expected images like 0002_c1s1"):
        read(tmp_path)


def test_folder_without_matching_names(tmp_path: Path) -> None:
    make(tmp_path, bounding_box_train=["b.jpg", "a.png"])
    with pytest.raises(ValueError, match=r"none of the 2 files in .* the first is a\.png"):
        read(tmp_path)
