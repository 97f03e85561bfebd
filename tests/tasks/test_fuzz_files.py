"""Any bytes in a file that people write: a value, or one of the errors a command prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.dataset_files import LocatedDataset, ReadOptions, TableOptions
from tasks.protocol.identities import listed_identities
from tasks.protocol.splits import camera_plan, split_from_file
from tasks.reading import dataset_facts, read_dataset, read_located
from tasks.schema import RawDomain, Record, Split
from tasks.text.descriptions import read_descriptions, with_dual_texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "split",
                    "id",
                    "file_path",
                    "captions",
                    "train",
                    "query",
                    "gallery",
                    "test",
                    "identity",
                    "clothing",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "split": st.sampled_from(["train", "val", "test"]) | JSON,
        "id": st.integers(0, 3) | st.sampled_from(["1", "01", "9" * 30]) | JSON,
        "file_path": st.sampled_from(["a.jpg", "../a.jpg", "b\\c.jpg", "\ud800.jpg"]) | JSON,
        "captions": st.lists(st.text(st.characters(), max_size=6), max_size=2) | JSON,
    }
)
IMAGE = st.tuples(st.sampled_from(["cam_a/1.jpg", "1.jpg", "x/2.jpg", ""]), JSON, JSON)
SPLIT = st.fixed_dictionaries(
    {part: st.lists(IMAGE, max_size=2) | JSON for part in ("train", "query", "gallery")}
) | st.fixed_dictionaries({part: st.lists(st.integers(0, 4)) | JSON for part in ("train", "test")})
TEXTS = (JSON | st.lists(ENTRY, max_size=3) | st.lists(SPLIT, min_size=1, max_size=2)).map(
    lambda value: json.dumps(value).encode()
)
LINES = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["1", "007", "a\t\t\tb"])
).map(lambda lines: "\n".join(lines).encode())
CONTENT = st.one_of(
    st.binary(max_size=60),
    LINES,
    TEXTS,
    st.builds(lambda mark, content: mark + content, st.sampled_from(
        [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0"]), LINES | TEXTS),
)  # fmt: skip


def read_ids(file: Path) -> None:
    listed_identities(file, "market1501")


def read_parts(file: Path) -> None:
    read_descriptions(file)


def read_dual(file: Path) -> None:
    raw = RawDomain("a", (Record("a.jpg", 1, 0),), Split((), ()), dual_file=file)
    with_dual_texts(raw)


def read_captions(file: Path) -> None:
    facts = dataset_facts("cuhk_pedes")
    (file.parent / "imgs").mkdir(exist_ok=True)
    file.rename(file.parent / "reid_raw.json")
    place = LocatedDataset("cuhk_pedes", facts, file.parent, facts.layouts[0])
    read_located(place, file.parent, ReadOptions())


def read_split(file: Path) -> None:
    facts = dataset_facts("viper")
    place = LocatedDataset("viper", facts, file.parent, facts.layouts[0])
    images = [
        Record(str(file.parent / f"cam_{camera}" / f"{person}.jpg"), person, number)
        for number, camera in enumerate("ab")
        for person in range(4)
    ]
    split_from_file(place, camera_plan(images, (0, 1)), file, index=0, source="file")


def read_csv(file: Path) -> None:
    read_dataset("table", file.parent, ReadOptions(table=TableOptions(file=str(file))))


def read_parquet(file: Path) -> None:
    read_csv(file.rename(file.with_suffix(".parquet")))


READERS = (read_ids, read_parts, read_dual, read_captions, read_split, read_csv, read_parquet)


def check(reader: Callable[[Path], None], folder: Path, content: bytes) -> None:
    file = folder / "file.txt"
    file.write_bytes(content)
    try:
        reader(file)
    except UnicodeError as error:
        pytest.fail(f"{error!r} does not name the file")  # although it is a ValueError
    except (ValueError, FileNotFoundError):
        pass


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=CONTENT)
def test_any_file_is_read_or_refused(
    reader: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check(reader, tmp_path_factory.mktemp("fuzz"), content)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=CONTENT)
def test_very_many_files_are_read_or_refused(
    reader: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check(reader, tmp_path_factory.mktemp("fuzz"), content)
