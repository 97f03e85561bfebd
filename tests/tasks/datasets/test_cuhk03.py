from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tasks.dataset_files import ReadOptions
from tasks.datasets import _cuhk03_raw
from tasks.reading import find_dataset, read_dataset
from tasks.schema import RawDomain, Record
from tests.tasks.datasets.miniatures import cuhk03
from tests.tasks.datasets.miniatures.cuhk03 import build_extracted, build_raw

VARIANTS = [
    (boxes, protocol, index)
    for boxes in ("labeled", "detected")
    for protocol, index in (("new", 0), ("classic", 0), ("classic", 2))
]


def read(root: Path, **options: object) -> RawDomain:
    fields = {"derived": str(root.parent / "derived"), **options}
    return read_dataset("cuhk03", root, ReadOptions.model_validate(fields))


def listed(records: tuple[Record, ...]) -> list[tuple[str, int, int]]:
    return [(Path(each.image_path).stem, each.person_id, each.camera_id) for each in records]


@pytest.fixture
def raw_root(tmp_path: Path) -> Path:
    build_raw(tmp_path / "data" / "CUHK03")
    return tmp_path / "data"


@pytest.fixture
def extracted_root(tmp_path: Path) -> Path:
    build_extracted(tmp_path / "extracted" / "CUHK03_lifelong")
    return tmp_path / "extracted"


@pytest.mark.parametrize("boxes", ["labeled", "detected"])
def test_extracted_pixels_equal_the_raw_pixels(raw_root: Path, boxes: str) -> None:
    raw = read(raw_root, cuhk03_boxes=boxes)
    records = (*raw.train, *raw.test.query, *raw.test.gallery)
    assert sorted(Path(record.image_path).stem for record in records) == cuhk03.names(boxes)
    for record in records:
        with Image.open(record.image_path) as image:
            found = np.asarray(image)
        wanted = cuhk03.pixels(Path(record.image_path).stem, boxes)
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(("boxes", "protocol", "index"), VARIANTS)
def test_raw_and_extracted_give_the_same_splits(
    raw_root: Path, extracted_root: Path, boxes: str, protocol: str, index: int
) -> None:
    options = {"cuhk03_boxes": boxes, "cuhk03_protocol": protocol, "split_index": index}
    one, other = read(raw_root, **options), read(extracted_root, **options)
    assert listed(one.train) == listed(other.train)
    assert listed(one.test.query) == listed(other.test.query)
    assert listed(one.test.gallery) == listed(other.test.gallery)
    assert one.facts == other.facts
    assert (one.variant, other.variant) == ("extracted from raw", "extracted")
    assert one.facts["split_source"] == f"splits_{protocol}_{boxes}.json"
    assert (one.facts["boxes"], one.facts["protocol"]) == (boxes, protocol)
    split = cuhk03.new_split(boxes) if protocol == "new" else cuhk03.classic_splits(boxes)[index]
    for part, records in (
        ("train", one.train),
        ("query", one.test.query),
        ("gallery", one.test.gallery),
    ):
        assert listed(records) == [
            (name, 1000 * int(name[0]) + int(name[2:5]), int(name[6]) - 1)
            for name in sorted(split[part])
        ]


def test_person_ids_do_not_depend_on_numbers_in_split_files(extracted_root: Path) -> None:
    file = extracted_root / "CUHK03_lifelong" / "splits_new_labeled.json"
    (split,) = json.loads(file.read_text())
    assert {entry[1] for entry in split["train"]} & {entry[1] for entry in split["query"]}
    raw = read(extracted_root)
    assert sorted({record.person_id for record in raw.train}) == [1001, 1002, 1003, 2001]
    assert sorted({record.person_id for record in raw.test.query}) == [1004, 3001, 3002]


def test_new_protocol_has_one_split_and_classic_protocol_several(extracted_root: Path) -> None:
    assert read(extracted_root, split_index=19).facts["split_index"] == 0
    with pytest.raises(ValueError, match=r"split_index is 3, but .*set it to 0 to 2"):
        read(extracted_root, cuhk03_protocol="classic", split_index=3)


def test_extraction_is_done_once_and_readable_without_raw_files(raw_root: Path) -> None:
    first = read(raw_root)
    folder = raw_root.parent / "derived" / "cuhk03"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert read(raw_root) == first
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    again = read(raw_root, roots={"cuhk03": str(folder)})
    assert (again.train, again.test, again.variant) == (first.train, first.test, "extracted")
    assert again.facts == first.facts


def test_interrupted_extraction_leaves_no_images(
    raw_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, num_saved = Image.Image.save, 0

    def fail_at_ten(image: Image.Image, *args: object) -> None:
        nonlocal num_saved
        num_saved += 1
        if num_saved == 10:
            raise OSError(28, "No space left on device")
        save(image, *args)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail_at_ten)
        with pytest.raises(OSError, match="No space left"):
            read(raw_root)
    assert os.listdir(raw_root.parent / "derived" / "cuhk03") == ["source.json"]
    assert len(read(raw_root).train) == 18


def test_concurrent_extraction_succeeds(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = find_dataset("cuhk03", raw_root, ReadOptions())
    target = tmp_path / "target"
    raw_images = _cuhk03_raw._raw_images

    def overtaken(*args: object):
        yield from raw_images(dataset, "labeled")
        monkeypatch.undo()
        _cuhk03_raw.extract_images(dataset, "labeled", target)

    monkeypatch.setattr(_cuhk03_raw, "_raw_images", overtaken)
    _cuhk03_raw.extract_images(dataset, "labeled", target)
    assert sorted(os.listdir(target)) == ["images_labeled", "source.json"]
    assert len(os.listdir(target / "images_labeled")) == len(cuhk03.names("labeled"))


def test_images_of_another_raw_file_are_rejected(raw_root: Path) -> None:
    read(raw_root)
    with h5py.File(raw_root / "CUHK03" / "cuhk03_release" / "cuhk-03.mat", "a") as mat:
        mat["more"] = np.zeros(1000)
    with pytest.raises(
        ValueError, match=r"cuhk03 was extracted from another cuhk-03\.mat .*Delete"
    ):
        read(raw_root)


def test_unwritable_folder_is_reported(raw_root: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(OSError, match=r"cannot extract images into .*Set benchmark\.derived"):
        read(raw_root, derived=str(tmp_path / "taken"))


def test_missing_boxes_are_reported_or_extracted(extracted_root: Path, tmp_path: Path) -> None:
    folder = extracted_root / "CUHK03_lifelong"
    (folder / "splits_new_detected.json").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"expected splits_new_detected\.json .*cuhk03_boxes=detected .*Download it, or",
    ):
        read(extracted_root, cuhk03_boxes="detected")
    build_raw(folder)
    assert read(extracted_root, cuhk03_boxes="detected").variant == "extracted from raw"
    assert read(extracted_root, cuhk03_boxes="labeled").variant == "extracted"


def test_user_split_file(raw_root: Path, extracted_root: Path) -> None:
    folder = extracted_root / "CUHK03_lifelong"
    (raw_root / "CUHK03" / "cuhk03_new_protocol_config_labeled.mat").unlink()
    raw = read(raw_root, split_files={"cuhk03": str(folder / "splits_new_labeled.json")})
    assert listed(raw.train) == listed(read(extracted_root).train)
    assert raw.facts["split_source"] == "file"
    with pytest.raises(FileNotFoundError, match=r"images_detected/.* which .* does not contain"):
        read(raw_root, split_files={"cuhk03": str(folder / "splits_new_detected.json")})
    people = folder / "people.json"
    people.write_text(json.dumps([{"train": [1001], "test": [1002]}]))
    with pytest.raises(ValueError, match=r"under 'train', got 1001"):
        read(raw_root, split_files={"cuhk03": str(people)})
