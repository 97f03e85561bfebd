from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_facts, read_dataset
from tests.tasks.datasets.miniatures.sensereid import build


def test_camera_ids_are_those_of_file_names(tmp_path: Path) -> None:
    build(tmp_path)
    raw = read_dataset("sensereid", tmp_path, ReadOptions())
    assert raw.train == ()
    assert [(record.person_id, record.camera_id) for record in raw.test.query] == [
        (2, 0),
        (2, 1),
        (5, 0),
        (5, 1),
    ]


@pytest.mark.parametrize("below", dataset_facts("sensereid").folders)
def test_finds_the_usual_roots(tmp_path: Path, below: str) -> None:
    build(tmp_path, below)
    assert read_dataset("sensereid", tmp_path, ReadOptions()).folder == tmp_path / below
