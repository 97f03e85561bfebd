"""Trees, ids and texts as people really have them: read, or refused by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.dataset_files import ReadOptions
from tasks.protocol.identities import listed_identities
from tasks.protocol.split_checks import check_splits, shared_people, unmatched_queries
from tasks.reading import read_dataset
from tasks.schema import RawDomain, Record, Split
from tasks.text.caption_checks import caption_findings
from tasks.text.text_files import normalise_text, read_json_file

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def market(
    root: Path, *, train: list[str] | None = None, cameras: tuple[int, ...] = (1, 2)
) -> Path:
    """Training people 2 to 5 and test people 7 and 8, or the training files `train`."""
    names = {
        "bounding_box_train": train
        or [f"{person:04d}_c{c}s1_{c:06d}_01.jpg" for person in range(2, 6) for c in cameras],
        "query": [f"{person:04d}_c{c}s1_{c:06d}_00.jpg" for person in (7, 8) for c in cameras],
        "bounding_box_test": [
            f"{person:04d}_c{c}s1_{c:06d}_01.jpg" for person in (7, 8) for c in cameras
        ],
    }
    for folder, files in names.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in files:
            (root / folder / name).write_bytes(b"")
    return root


def read(root: Path, name: str = "market1501") -> RawDomain:
    return read_dataset(name, root, ReadOptions())


# ---- trees


def test_a_mac_archive_is_found_beside_its_fork(tmp_path: Path) -> None:
    for fork in ("__MACOSX", "unzipped/__MACOSX"):
        market(tmp_path / fork / "Market-1501-v15.09.15")
    real = market(tmp_path / "unzipped" / "market" / "Market-1501-v15.09.15")
    with pytest.raises(FileNotFoundError) as error:
        read(tmp_path)
    assert f"benchmark.roots.market1501={real}" in str(error.value)
    assert "__MACOSX" not in str(error.value)


def test_apple_double_files_are_ignored_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in list(market(tmp_path).rglob("*.jpg")):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "query" / "__MACOSX").mkdir()
    assert len(read(tmp_path).train) == 8
    assert not caplog.records


def test_a_folder_per_person_is_named(tmp_path: Path) -> None:
    for file in list(market(tmp_path).rglob("*.jpg")):
        (file.parent / file.name[:4]).mkdir(exist_ok=True)
        file.rename(file.parent / file.name[:4] / file.name)
    with pytest.raises(ValueError, match=r"4 folders \(0002, 0003, 0004, \.\.\.\) and no files"):
        read(tmp_path)


def test_folders_beside_images_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (market(tmp_path) / "query" / "0007").mkdir()
    read(tmp_path)
    assert "ignored 1 folders in" in caplog.text


def test_flat_files_where_folders_are_expected(tmp_path: Path) -> None:
    folder = tmp_path / "pep_256x128" / "data_slim" / "scen2" / "view1"
    folder.mkdir(parents=True)
    (folder / "0001_a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"named like 181; found only files \(0001_a\.jpg\)"):
        read(tmp_path, "lpw")


# ---- ids


def test_camera_0_stays_a_camera(tmp_path: Path) -> None:
    raw = read(market(tmp_path, cameras=(0, 1, 12345)))
    cameras = {record.camera_id for record in raw.train}
    assert cameras == {0, 1, 12345}
    assert {record.camera_id for record in raw.test.query} == cameras


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("-2_c1s1_000001_01.jpg", r"-1 for junk, as in 0002_c1.*got person -2 in .*-2_c1"),
        ("20261122093011000001_c1s1_000001_01.jpg", r"from 0 to 9223372036854775807.*20261122"),
        ("2_c1s1_000001_01.jpg", r"one spelling of each person id, got 0002 in .* and 2 in"),
        ("0002_c1s1_0_caf\udce9.jpg", r"half of a surrogate pair.*in '0002_c1s1_0_caf"),
    ],
)
def test_ids_that_no_data_set_may_have_are_refused_by_name(
    tmp_path: Path, name: str, fact: str
) -> None:
    market(tmp_path, train=["0002_c2s1_000001_01.jpg", name])
    with pytest.raises(ValueError, match=fact):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf1\r\n2\r\n\r\n", b"0001\n0002\n", "\u0661\n\u0662\n".encode(), b" 2 \n1\n2"],
)
def test_id_lists_of_windows_are_plain_lists(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    assert listed_identities(tmp_path / "ids.txt", "market1501") == [1, 2]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"# chosen\n1", "line 1: expected a person id, got '# chosen'"),
        (b"1, 2", "line 1"),
        ("1\n2\n".encode("utf-16"), "got UTF-16; save the file as UTF-8"),
        (b"9" * 5000, "line 1: expected a person id, got '9999"),
        (b"\n\n", "lists no identity"),
    ],
)
def test_other_id_lists_are_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(ValueError, match=fact):
        listed_identities(tmp_path / "ids.txt", "market1501")


def test_a_list_with_other_capitals_is_named(tmp_path: Path) -> None:
    (tmp_path / "Market1501.txt").write_text("1\n")
    with pytest.raises(FileNotFoundError, match=r"market1501\.txt .* but Market1501\.txt does"):
        listed_identities(tmp_path, "market1501")


# ---- wrong data that no reader notices


def load(root: Path, **settings: Any) -> None:
    config = BenchmarkConfig(
        name="market1501", root=str(root), num_validation_identities=1, **settings
    )
    load_benchmark(config, image_height=32, image_width=16)


def test_one_camera_is_refused_before_work_starts(tmp_path: Path) -> None:
    raw = read(market(tmp_path, cameras=(1,)))
    message = unmatched_queries("", raw.test)
    assert message is not None
    assert "none of 2 queries has an image of its person by another camera" in message
    assert "at least two cameras" in message
    with pytest.raises(ValueError, match="mAP and Rank-1 are undefined") as error:
        load(tmp_path)
    assert str(error.value) == f"market1501: {message}"


def test_some_queries_without_a_match_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    market(tmp_path)
    for file in (tmp_path / "bounding_box_test").glob("0007*"):
        file.unlink()
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert "2 of 4 queries have no image of their person by another camera" in caplog.text


def test_people_in_training_and_test_are_refused_in_the_words_of_doctor(tmp_path: Path) -> None:
    market(tmp_path, train=[f"{p:04d}_c{c}s1_000001_01.jpg" for p in (2, 3, 7) for c in (1, 2)])
    (message,) = shared_people(read(tmp_path))
    assert "1 people (the first is 7) are in training and test images" in message
    with pytest.raises(ValueError, match="scores would be invalid") as error:
        load(tmp_path)
    assert str(error.value) == f"market1501: {message}"
    check_splits(read(tmp_path), is_learned=False)  # a model trained elsewhere is not affected


# ---- JSON and captions


def captioned(root: Path, change: Callable[[str], bytes]) -> Path:
    entries = [
        {"split": split, "id": person, "file_path": f"a/{person}_{shot}.jpg", "captions": [text]}
        for split, people in (("train", (1, 2)), ("test", (8, 9)))
        for person in people
        for shot in (1, 2)
        for text in (f"Person {person} in coat {shot}, walking.",)
    ]
    for entry in entries:
        image = root / "CUHK-PEDES" / "imgs" / str(entry["file_path"])
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"")
    (root / "CUHK-PEDES" / "reid_raw.json").write_bytes(change(json.dumps(entries, indent=1)))
    return root


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("a/", "a\\\\").encode(),
        lambda text: text.replace(" coat", "\\u200b \\u0007coat\\ufeff").encode(),
        lambda text: text.replace('"id": 1', '"id": "001"').encode(),
    ],
    ids=["mark", "backslashes", "invisible", "digits"],
)
def test_variants_that_equal_the_plain_list(tmp_path: Path, change: Callable[[str], bytes]) -> None:
    plain = read(captioned(tmp_path / "plain", str.encode), "cuhk_pedes")
    other = read(captioned(tmp_path / "other", change), "cuhk_pedes")

    def below(raw: RawDomain) -> list[tuple[object, ...]]:
        records = (*raw.train, *raw.test.query, *raw.test.gallery)
        return [
            (r.image_path.removeprefix(str(raw.folder)), r.person_id, r.captions) for r in records
        ]

    assert below(other) == below(plain)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda text: text.encode("utf-16"), "UTF-16; save the file as UTF-8"),
        (lambda text: text.replace('"id": 1,', '"id": 1, "id": 999,').encode(), "'id' twice"),
        (lambda text: b"[" * 200_000, "nested too deeply"),
        (lambda text: text.replace('"id": 1', '"id": ' + "9" * 5000).encode(), "reid_raw.json"),
        (lambda text: text.replace('"id": 1', f'"id": "{"9" * 5000}"').encode(), "entry 1"),
        (lambda text: text.replace("coat 1", "\\ud83d").encode(), "entry 1: .*surrogate"),
        (lambda text: text.replace("a/", "\\udcff/").encode(), "entry 1: .*surrogate"),
        (lambda text: text.replace("a/", "C:\\\\data\\\\").encode(), "entry 1: .*below imgs/"),
        (lambda text: text.replace('"id": 1', '"id": "001"', 1).encode(), "one spelling"),
        (lambda text: "\n".join(map(json.dumps, json.loads(text))).encode(), "JSON lines"),
    ],
)
def test_other_lists_are_one_message(
    tmp_path: Path, change: Callable[[str], bytes], fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        read(captioned(tmp_path, change), "cuhk_pedes")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u200b\u200b", ""),
        ("\x00A man", "A man"),
        ("\ufeffA man\r\n\tin a coat.", "A man in a coat."),
        ("A man \U0001f9e5", "A man \U0001f9e5"),
        ("soft\u00adhyphen", "softhyphen"),
    ],
)
def test_invisible_characters_are_removed(text: str, expected: str) -> None:
    assert normalise_text(text, "here") == expected


def test_findings_about_captions_are_counted_with_an_example() -> None:
    texts = ["A man in red.", "for i in range(3): print(i)", "A woman &amp; a bag.", "N/A"]
    records = [
        Record("a", number, 0, ("Same words here.", text)) for number, text in enumerate(texts)
    ]
    records.append(Record("b", 9, 0, ("\u0410 m\u0430n in a coat.", "\u7684\u5728")))
    assert caption_findings(records) == [
        "1 captions shared by several people (the first is 'Same words here.')",
        "2 captions with code or markup (the first is 'for i in range(3): print(i)')",
        "1 captions with letters of several alphabets (the first is '\u0410 m\u0430n in a coat.')",
        "1 captions of a single word (the first is 'N/A')",
        "1 captions with no Latin letter (the first is '\u7684\u5728')",
    ]
    assert caption_findings([Record("a", 1, 0, ("A man in a coat, with a bag (black).",))]) == []


def test_an_object_may_have_a_key_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [{"b": 1, "c": 2, "b": 3}]}')
    with pytest.raises(ValueError, match=r"a\.json: .* the key 'b' twice"):
        read_json_file(tmp_path / "a.json")


def test_queries_of_an_empty_split_are_no_fault() -> None:
    assert unmatched_queries("", Split((), ())) is None
