"""Contract of all readers; a new reader needs a miniature in miniatures/<name>.py."""

from __future__ import annotations

import importlib
import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.dataset_files import ReadOptions
from tasks.protocol.lock import num_queries_without_match
from tasks.reading import dataset_facts, dataset_names, read_dataset
from tasks.schema import RawDomain, Record
from tests.tasks.datasets.miniatures.painting import Fault, Miniature


def miniatures_of(name: str) -> dict[str, Miniature]:
    """Return all miniatures of a data set; the first has the name of the data set."""
    return importlib.import_module(f"tests.tasks.datasets.miniatures.{name}").MINIATURES


VARIANTS = [(name, variant) for name in dataset_names() for variant in miniatures_of(name)]
FAULTS = [
    (name, variant, fault)
    for name, variant in VARIANTS
    for fault in miniatures_of(name)[variant].faults
]


def options_of(miniature: Miniature, derived: Path) -> ReadOptions:
    fields = {"accept_withdrawn": True, "derived": str(derived), **miniature.options}
    return ReadOptions.model_validate(fields)


def read_miniature(name: str, variant: str, tmp_path: Path) -> RawDomain:
    miniature = miniatures_of(name)[variant]
    root = tmp_path / "data"
    if not root.exists():
        root.mkdir()
        miniature.build(root)
    return read_dataset(name, root, options_of(miniature, tmp_path / "derived"))


def facts(records: Sequence[Record]) -> tuple[int, int, int]:
    return (
        len(records),
        len({record.person_id for record in records}),
        len({record.camera_id for record in records}),
    )


def images(raw: RawDomain) -> list[Record]:
    validation = (*raw.validation.query, *raw.validation.gallery) if raw.validation else ()
    return [*raw.train, *validation, *raw.test.query, *raw.test.gallery]


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
    }


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_counts_and_variant(name: str, variant: str, tmp_path: Path) -> None:
    miniature = miniatures_of(name)[variant]
    raw = read_miniature(name, variant, tmp_path)
    assert raw.name == name
    assert raw.variant == miniature.variant
    assert facts(raw.train) == miniature.train
    assert facts(raw.test.query) == miniature.query
    assert facts(raw.test.gallery) == miniature.gallery


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_training_validation_and_test_people_are_disjoint(
    name: str, variant: str, tmp_path: Path
) -> None:
    raw = read_miniature(name, variant, tmp_path)
    trained = {record.person_id for record in raw.train}
    tested = {record.person_id for record in (*raw.test.query, *raw.test.gallery)}
    assert trained.isdisjoint(tested)
    if raw.validation:
        validated = {
            record.person_id for record in (*raw.validation.query, *raw.validation.gallery)
        }
        assert validated.isdisjoint(trained | tested)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_image_is_readable_and_in_the_folder(name: str, variant: str, tmp_path: Path) -> None:
    raw = read_miniature(name, variant, tmp_path)
    for record in images(raw):
        assert Path(record.image_path).is_relative_to(raw.folder)
        with Image.open(record.image_path) as image:
            image.load()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_query_has_a_match(name: str, variant: str, tmp_path: Path) -> None:
    raw = read_miniature(name, variant, tmp_path)
    assert raw.test.query
    if raw.test.query_by == "image":
        assert num_queries_without_match(raw.test) == 0
    else:
        found = {record.person_id for record in raw.test.gallery}
        assert all(record.person_id in found for record in raw.test.query)
        assert all(len(record.captions) == 1 for record in raw.test.query)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_reading_does_not_change_the_data_folder(name: str, variant: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    miniatures_of(name)[variant].build(root)
    before = tree(root)
    read_miniature(name, variant, tmp_path)
    assert tree(root) == before


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_order_does_not_depend_on_the_file_system(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_miniature(name, variant, tmp_path)
    scandir, listdir = os.scandir, os.listdir
    draw = random.Random(3)

    class Shuffled:
        """Entries of os.scandir in random order."""

        def __init__(self, path: str = ".") -> None:
            with scandir(path) as entries:
                self.entries = list(entries)
            draw.shuffle(self.entries)

        def __enter__(self) -> Shuffled:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def __iter__(self):
            return iter(self.entries)

        def __next__(self):
            return self.entries.pop()

        def close(self) -> None:
            return None

    def shuffled_names(path: str = ".") -> list[str]:
        names = listdir(path)
        draw.shuffle(names)
        return names

    monkeypatch.setattr(os, "scandir", Shuffled)
    monkeypatch.setattr(os, "listdir", shuffled_names)
    again = read_miniature(name, variant, tmp_path)
    assert (again.train, again.test, again.validation) == (
        first.train,
        first.test,
        first.validation,
    )


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_only_base_names_are_parsed(name: str, variant: str, tmp_path: Path) -> None:
    raw = read_miniature(name, variant, tmp_path)
    odd = tmp_path / "12_c3" / "0099_c9s1_000001_00.jpg"
    odd.mkdir(parents=True)
    again = read_miniature(name, variant, odd)
    found = [(each.person_id, each.camera_id) for each in images(again)]
    assert found == [(each.person_id, each.camera_id) for each in images(raw)]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_hidden_files_are_ignored(name: str, variant: str, tmp_path: Path) -> None:
    first = read_miniature(name, variant, tmp_path)
    for folder in {Path(record.image_path).parent for record in images(first)}:
        some = next(file for file in sorted(folder.iterdir()) if not file.name.startswith("."))
        if folder.is_relative_to(tmp_path / "data") and some.is_file():
            (folder / f"._{some.name}").write_bytes(b"\0\5\x16\7")
    again = read_miniature(name, variant, tmp_path)
    assert images(again) == images(first)


@pytest.mark.parametrize("name", dataset_names())
def test_empty_or_missing_root_is_reported(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    title = re.escape(dataset_facts(name).title)
    options = ReadOptions(accept_withdrawn=True)
    with pytest.raises(FileNotFoundError, match=rf"{title}: expected .*an empty folder.*benchmark"):
        read_dataset(name, tmp_path / "data", options)
    with pytest.raises(FileNotFoundError, match=rf"{title}: the folder .*nowhere does not exist"):
        read_dataset(name, tmp_path / "nowhere", options)


@pytest.mark.parametrize("name", dataset_names())
def test_deeper_folder_is_suggested(name: str, tmp_path: Path) -> None:
    deeper = tmp_path / "data" / "downloads"
    deeper.mkdir(parents=True)
    miniature = next(iter(miniatures_of(name).values()))
    miniature.build(deeper)
    options = options_of(miniature, tmp_path / "derived")
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(name, tmp_path / "data", options)
    (folder,) = re.findall(rf"set benchmark\.roots\.{name}=(\S+)", str(caught.value))
    found = options.model_copy(update={"roots": {name: folder}})
    assert read_dataset(name, tmp_path / "data", found).train is not None


@pytest.mark.parametrize(("name", "variant", "fault"), FAULTS)
def test_faults_are_reported(name: str, variant: str, fault: str, tmp_path: Path) -> None:
    miniature = miniatures_of(name)[variant]
    root = tmp_path / "data"
    root.mkdir()
    miniature.build(root)
    case: Fault = miniature.faults[fault]
    case.damage(root)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_dataset(name, root, options_of(miniature, tmp_path / "derived"))
    for pattern in case.messages:
        assert re.search(pattern, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", dataset_names())
def test_withdrawn_data_set_must_be_accepted(name: str, tmp_path: Path) -> None:
    if not dataset_facts(name).withdrawn:
        return
    next(iter(miniatures_of(name).values())).build(tmp_path)
    with pytest.raises(ValueError, match=r"benchmark\.accept_withdrawn=true"):
        read_dataset(name, tmp_path, ReadOptions())


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_data_set_as_benchmark(name: str, variant: str, tmp_path: Path) -> None:
    raw = read_miniature(name, variant, tmp_path)
    miniature = miniatures_of(name)[variant]
    fields = {
        "name": name,
        "root": str(tmp_path / "data"),
        "derived": str(tmp_path / "derived"),
        "accept_withdrawn": True,
        "num_validation_identities": 1,
        **miniature.options,
    }
    config = BenchmarkConfig.model_validate(fields)
    if not raw.train:
        with pytest.raises(ValueError, match="no training images"):
            load_benchmark(config, image_height=32, image_width=16)
        return
    (domain,) = load_benchmark(config, image_height=32, image_width=16).seen
    assert domain.train
    assert domain.validation.query
    trained = {record.image_path for record in domain.train}
    assert trained.isdisjoint(record.image_path for record in domain.validation.query)
    shutil.rmtree(tmp_path / "data")
