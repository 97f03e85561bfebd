from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_facts, read_dataset
from tests.tasks.datasets.miniatures.msmt17 import build, image


def test_only_test_ids_get_an_offset(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read_dataset("msmt17", tmp_path, ReadOptions())
    assert sorted({record.person_id for record in raw.train}) == [0, 1, 2, 3]
    assert sorted({record.person_id for record in raw.test.query}) == [10_000, 10_001]
    assert sorted({record.person_id for record in raw.test.gallery}) == [10_000, 10_001, 10_002]


def test_camera_is_third_field_of_file_name(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read_dataset("msmt17", tmp_path, ReadOptions())
    assert {record.camera_id for record in raw.train} == {0, 4, 14}
    assert {record.camera_id for record in raw.test.gallery} == {1, 6}


@pytest.mark.parametrize(("version", "train"), [("V1", "train"), ("V2", "mask_train_v2")])
def test_folders_of_each_version(tmp_path: Path, version: str, train: str) -> None:
    build(tmp_path, version)
    raw = read_dataset("msmt17", tmp_path, ReadOptions())
    assert raw.variant == version
    first = raw.train[0]
    assert first.image_path == str(tmp_path / f"MSMT17_{version}" / train / image(0, 0, 1))


def test_setting_selects_the_version(tmp_path: Path) -> None:
    build(tmp_path, "V1")
    build(tmp_path, "V2")
    assert read_dataset("msmt17", tmp_path, ReadOptions()).variant == "V2"
    chosen = ReadOptions(roots={"msmt17": str(tmp_path / "MSMT17_V1")})
    assert read_dataset("msmt17", tmp_path, chosen).variant == "V1"


def test_validation_images_are_added_only_if_configured(tmp_path: Path) -> None:
    build(tmp_path)
    without = read_dataset("msmt17", tmp_path, ReadOptions())
    joined = read_dataset("msmt17", tmp_path, ReadOptions(msmt17_val_in_train=True))
    added = {each.image_path for each in joined.train} - {each.image_path for each in without.train}
    train = tmp_path / "MSMT17_V1" / "train"
    assert added == {str(train / image(person, 3, 15)) for person in (1, 2, 3)}
    assert (without.facts["val_in_train"], joined.facts["val_in_train"]) == (False, True)
    assert without.test == joined.test


def test_order_of_lines_is_irrelevant(tmp_path: Path) -> None:
    build(tmp_path)
    before = read_dataset("msmt17", tmp_path, ReadOptions())
    for name in ("train", "query", "gallery"):
        file = tmp_path / "MSMT17_V1" / f"list_{name}.txt"
        file.write_text("\r\n".join(reversed(file.read_text().split("\n"))))
    after = read_dataset("msmt17", tmp_path, ReadOptions())
    assert (after.train, after.test) == (before.train, before.test)


@pytest.mark.parametrize("below", dataset_facts("msmt17").folders)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    build(tmp_path, "V1", below)
    assert read_dataset("msmt17", tmp_path, ReadOptions()).folder == tmp_path / below
