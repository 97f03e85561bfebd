from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset_files import ReadOptions
from tasks.datasets import cuhk_sysu
from tasks.reading import dataset_facts, read_dataset
from tasks.schema import RawDomain
from tests.tasks.datasets.miniatures import cuhk_sysu as miniature
from tests.tasks.datasets.miniatures.painting import WIDTH, person_image


def read(tmp_path: Path) -> RawDomain:
    options = ReadOptions(derived=str(tmp_path / "derived"))
    return read_dataset("cuhk_sysu", tmp_path / "data", options)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_every_part_has_its_own_camera_id(tmp_path: Path) -> None:
    miniature.build_extracted(tmp_path / "data")
    raw = read(tmp_path)
    assert {record.camera_id for record in raw.train} == {0}
    assert {record.camera_id for record in raw.test.gallery} == {1}
    assert {record.camera_id for record in raw.test.query} == {2}


def test_people_with_few_images_are_excluded_from_training(tmp_path: Path) -> None:
    miniature.build_extracted(tmp_path / "data")
    raw = read(tmp_path)
    assert sorted({record.person_id for record in raw.train}) == [3, 41]
    assert raw.facts == {"train_rule": "people with at least 4 images"}


@pytest.mark.parametrize("below", dataset_facts("cuhk_sysu").folders)
@pytest.mark.parametrize("inner", ["", "cuhksysu4reid"])
def test_finds_the_usual_roots(tmp_path: Path, below: str, inner: str) -> None:
    folder = tmp_path / "data" / below / inner
    miniature.build_extracted(tmp_path / "data", f"{below}/{inner}")
    assert read(tmp_path).folder == folder


def test_extracted_images_are_preferred_to_raw_release(tmp_path: Path) -> None:
    miniature.build_extracted(tmp_path / "data")
    miniature.build_raw(tmp_path / "data")
    assert read(tmp_path).variant == "extracted"
    assert not (tmp_path / "derived").exists()


def test_extracted_file_names(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    raw = read(tmp_path)
    assert raw.folder == tmp_path / "derived" / "cuhk_sysu"
    assert names(raw.folder / "train") == [
        *(f"00003_s{1 + number}_{number:07d}_{number % 2}.jpg" for number in range(4)),
        *(f"00041_s{1 + number}_{4 + number:07d}_{number % 2}.jpg" for number in range(5)),
        *(f"00700_s{1 + number}_{9 + number:07d}_{number % 2}.jpg" for number in range(3)),
    ]
    assert names(raw.folder / "query") == ["00008_s11_0000000_0.jpg", "05012_s11_0000001_0.jpg"]
    assert names(raw.folder / "gallery") == [
        "00008_s12_0000000_1.jpg",
        "00008_s13_0000001_1.jpg",
        "05012_s12_0000002_1.jpg",
        "05012_s13_0000003_1.jpg",
    ]


def test_crops_contain_the_person(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    raw = read(tmp_path)
    by_name = {Path(each.image_path).name: each for each in (*raw.train, *raw.test.gallery)}
    for name, person, number in (
        ("00041_s2_0000005_1.jpg", 41, 1),
        ("05012_s13_0000003_1.jpg", 5012, 2),
    ):
        crop = np.asarray(Image.open(by_name[name].image_path), dtype=float)
        assert crop.shape == (32, 16, 3)
        assert np.abs(crop - person_image(person, number)).mean() < 12
        assert np.abs(crop - person_image(person + 1, number)).mean() > 24


def test_extracts_once(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    first = read(tmp_path)
    before = tree(tmp_path / "derived")
    again = read(tmp_path)
    assert tree(tmp_path / "derived") == before
    assert again == first
    assert set(first.facts) == {
        "train_rule",
        "crops",
        "Train.mat_sha256",
        "TestG50.mat_sha256",
    }


def test_failed_extraction_leaves_no_files(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    scene = tmp_path / "data" / "CUHK-SYSU" / "Image" / "SSM" / "s13.jpg"
    whole = scene.read_bytes()
    scene.write_bytes(b"")
    with pytest.raises(ValueError, match=r"s13\.jpg: expected an image"):
        read(tmp_path)
    assert list((tmp_path / "derived").iterdir()) == []
    scene.write_bytes(whole)
    assert read(tmp_path).variant == "extracted from raw"


def test_concurrent_extractions_give_the_first_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniature.build_raw(tmp_path / "data")
    extract = cuhk_sysu._read_crops
    by_the_other: list[RawDomain] = []

    def other_first(dataset):
        monkeypatch.setattr(cuhk_sysu, "_read_crops", extract)
        by_the_other.append(read(tmp_path))
        return extract(dataset)

    monkeypatch.setattr(cuhk_sysu, "_read_crops", other_first)
    assert read(tmp_path) == by_the_other[0]
    assert names(tmp_path / "derived") == ["cuhk_sysu"]


def test_crops_of_another_annotation_are_rejected(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    read(tmp_path)
    people = miniature.train_annotation()
    miniature.write_train(tmp_path / "data", {"p4": people["p3"], "p41": people["p41"]})
    with pytest.raises(ValueError, match=r"was not extracted from .* Delete .*derived/cuhk_sysu"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "derived" / "cuhk_sysu")
    assert sorted({record.person_id for record in read(tmp_path).train}) == [4, 41]


def test_missing_crops_are_reported(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    raw = read(tmp_path)
    Path(raw.test.gallery[0].image_path).unlink()
    with pytest.raises(ValueError, match=r"4 images were extracted .*, but 3 are there\. Delete"):
        read(tmp_path)


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    (tmp_path / "derived").write_text("a file")
    with pytest.raises(OSError, match=r"cannot extract .* Set benchmark\.derived"):
        read(tmp_path)


@pytest.mark.parametrize("derived", ["data/CUHK-SYSU", "data/CUHK-SYSU/Image/made"])
def test_extraction_into_the_data_folder_is_rejected(tmp_path: Path, derived: str) -> None:
    miniature.build_raw(tmp_path / "data")
    before = tree(tmp_path / "data")
    options = ReadOptions(derived=str(tmp_path / derived))
    with pytest.raises(ValueError, match=r"set benchmark\.derived to a folder outside"):
        read_dataset("cuhk_sysu", tmp_path / "data", options)
    assert tree(tmp_path / "data") == before


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    people = miniature.train_annotation()
    # In bytes, 20 + 240 would be 4.
    wide = np.array([20, 3, 240, 250], dtype=np.uint8)
    people["p3"][0] = ("s1.jpg", wide, 0)
    people["p3"][1] = ("s2.jpg", [-4, -5, 4 + WIDTH, 12], 1)
    miniature.write_train(tmp_path / "data", people)
    first, second = read(tmp_path).train[:2]
    with Image.open(tmp_path / "data" / "CUHK-SYSU" / "Image" / "SSM" / "s1.jpg") as scene:
        width, height = scene.size
    assert Image.open(first.image_path).size == (width - 20, height - 3)
    assert Image.open(second.image_path).size == (WIDTH, 7)


def test_single_person_and_single_search(tmp_path: Path) -> None:
    miniature.build_raw(tmp_path / "data")
    (name, query, gallery), *_ = miniature.test_annotation()
    miniature.write_train(tmp_path / "data", {"p3": miniature.train_annotation()["p3"]})
    miniature.write_test(tmp_path / "data", [(name, query, gallery[:1])])
    raw = read(tmp_path)
    assert len(raw.train) == 4
    assert (len(raw.test.query), len(raw.test.gallery)) == (1, 1)
