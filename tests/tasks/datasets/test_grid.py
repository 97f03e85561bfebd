from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain, Record
from tests.tasks.datasets.miniatures.grid import PEOPLE, TRAIN, build


def read(root: Path, **options: object) -> RawDomain:
    return read_dataset("grid", root, ReadOptions.model_validate(options))


def persons(records: tuple[Record, ...]) -> list[int]:
    return sorted(record.person_id for record in records)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_partitions_define_training_people(tmp_path: Path, index: int) -> None:
    build(tmp_path / "GRID")
    raw = read(tmp_path, split_index=index)
    tested = sorted(set(PEOPLE) - set(TRAIN[index]))
    assert persons(raw.train) == sorted(2 * TRAIN[index])
    assert persons(raw.test.query) == tested
    assert persons(raw.test.gallery) == [0, 0, 0, *tested]
    assert {record.camera_id for record in raw.test.query} == {0}
    assert {record.camera_id for record in raw.test.gallery} == {1}
    assert raw.facts["split_source"] == "features_and_partitions.mat"
    assert (raw.facts["split_index"], raw.facts["num_splits"]) == (index, 3)


def cell(*people: np.ndarray) -> np.ndarray:
    value = np.empty((1, len(people)), dtype=object)
    value[0] = people
    return value


FORMS = {
    "matrix": np.array(TRAIN, dtype=float),
    "cell of rows": cell(*(np.array([people]) for people in TRAIN)),
    "cell of columns": cell(*(np.array([people]).T for people in TRAIN)),
}


@pytest.mark.parametrize("form", FORMS)
def test_simpler_partition_formats(tmp_path: Path, form: str) -> None:
    build(tmp_path / "grid")
    wanted = [read(tmp_path, split_index=index) for index in range(3)]
    savemat(tmp_path / "grid" / "features_and_partitions.mat", {"trainIdxAll": FORMS[form]})
    assert [read(tmp_path, split_index=index) for index in range(3)] == wanted


def test_index_out_of_range_is_reported(tmp_path: Path) -> None:
    build(tmp_path / "grid")
    with pytest.raises(ValueError, match=r"split_index is 3, but features.*set it to 0 to 2"):
        read(tmp_path, split_index=3)


def test_split_file_takes_precedence(tmp_path: Path) -> None:
    build(tmp_path / "grid" / "underground_reid")
    paths = {
        part: sorted((tmp_path / "grid" / "underground_reid" / part).iterdir())
        for part in ("probe", "gallery")
    }
    split = {
        "train": [
            [str(paths[part][number]), 0, 1] for part, number in (("probe", 1), ("gallery", 4))
        ],
        "query": [[str(paths["probe"][0]), 1, 0]],
        "gallery": [[str(path), int(path.name[:4]), 5] for path in paths["gallery"][:4]],
    }
    (tmp_path / "splits.json").write_text(json.dumps([split]))
    raw = read(tmp_path, split_files={"grid": str(tmp_path / "splits.json")})
    assert persons(raw.train) == [2, 2]
    assert persons(raw.test.gallery) == [0, 0, 0, 1]
    assert raw.facts["split_source"] == "file"
