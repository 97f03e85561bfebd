from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_facts, read_dataset
from tests.tasks.datasets.miniatures.dukemtmc import build


def test_reads_person_and_camera(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read_dataset("dukemtmc", tmp_path, ReadOptions(accept_withdrawn=True))
    first = raw.train[0]
    assert Path(first.image_path).name == "0001_c2_f0011546.jpg"
    assert (first.person_id, first.camera_id) == (1, 1)
    assert {record.person_id for record in raw.test.gallery} == {2, 12, 7132}


@pytest.mark.parametrize("below", dataset_facts("dukemtmc").folders)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    build(tmp_path, below)
    raw = read_dataset("dukemtmc", tmp_path, ReadOptions(accept_withdrawn=True))
    assert raw.folder == tmp_path / below


def test_withdrawal_is_reported(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(ValueError, match=r"DukeMTMC-reID was withdrawn by its authors in 2019\."):
        read_dataset("dukemtmc", tmp_path, ReadOptions())
