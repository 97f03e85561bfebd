"""CUHK-PEDES, ICFG-PEDES and RSTPReid: contents of their lists."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.dataset_files import ReadOptions
from tasks.reading import read_dataset
from tasks.schema import RawDomain, Record, Split
from tests.tasks.datasets.miniatures import cuhk_pedes, icfg_pedes, rstpreid
from tests.tasks.datasets.miniatures.captioned import build, entry


def read_cuhk(root: Path, entries: list[dict[str, Any]]) -> RawDomain:
    build(root, "reid_raw.json", entries)
    return read_dataset("cuhk_pedes", root, ReadOptions())


def below_images(raw: RawDomain, records: tuple[Record, ...]) -> list[str]:
    return [Path(each.image_path).relative_to(raw.folder / "imgs").as_posix() for each in records]


def test_records_are_sorted_by_path_and_captions_are_queries(tmp_path: Path) -> None:
    raw = read_cuhk(tmp_path, cuhk_pedes.ENTRIES)
    assert below_images(raw, raw.train) == [
        "CUHK01/0001003.png",
        "CUHK03/1_0.jpg",
        "Market/0002_c1s1_000451_03.jpg",
        "Market/0002_c3s1_000451_03.jpg",
        "train_query/p10_s1.jpg",
    ]
    assert [record.person_id for record in raw.train] == [1, 1, 2, 2, 3]
    assert raw.train[1].captions == ("A man in a red shirt.", "He has short hair.")
    assert [(query.person_id, query.captions) for query in raw.test.query] == [
        (14, ("A man in a coat.",)),
        (14, ("The coat is long.",)),
        (14, ("A man.",)),
        (13, ("A woman.",)),
        (13, ("She carries a cup.",)),
        (13, ("A tall woman.",)),
        (13, ("She walks.",)),
    ]
    assert below_images(raw, raw.test.gallery) == [
        "test_query/p1_s2.jpg",
        "train_query/p10_s2.jpg",
        "train_query/p9_s2.jpg",
    ]
    assert raw.test.query_by == "text"
    assert raw.facts == {"num_training_captions": 11}


def test_validation_split_of_the_data_set_is_used(tmp_path: Path) -> None:
    raw = read_cuhk(tmp_path, cuhk_pedes.ENTRIES)
    assert raw.validation is not None
    assert raw.validation.query_by == "text"
    assert len(raw.validation.query) == 4
    assert {record.person_id for record in raw.validation.gallery} == {11, 12}
    config = BenchmarkConfig(name="cuhk_pedes", root=str(tmp_path), num_validation_identities=2)
    (domain,) = load_benchmark(config, image_height=32, image_width=16).seen
    assert domain.num_persons == 3
    assert domain.validation == raw.validation


def test_identities_are_held_out_without_validation_split(tmp_path: Path) -> None:
    icfg_pedes.MINIATURES["icfg_pedes"].build(tmp_path)
    assert read_dataset("icfg_pedes", tmp_path, ReadOptions()).validation is None
    config = BenchmarkConfig(name="icfg_pedes", root=str(tmp_path), num_validation_identities=1)
    (domain,) = load_benchmark(config, image_height=32, image_width=16).seen
    assert domain.num_persons == 2
    assert [query.captions for query in domain.validation.query] == [("A boy in blue.",)]
    assert domain.validation.query_by == "text"


def test_lifelong_order_of_all_three_data_sets(tmp_path: Path) -> None:
    for miniatures in (cuhk_pedes, icfg_pedes, rstpreid):
        next(iter(miniatures.MINIATURES.values())).build(tmp_path)
    config = BenchmarkConfig(name="t2i-1", root=str(tmp_path), num_validation_identities=1)
    benchmark = load_benchmark(config, image_height=32, image_width=16)
    assert [domain.name for domain in benchmark.seen] == ["cuhk_pedes", "icfg_pedes", "rstpreid"]
    locks = benchmark.lock["domains"].values()
    assert [lock["num_images"]["test_query"] for lock in locks] == [7, 3, 12]
    assert {lock["query_by"] for lock in locks} == {"text"}


def test_single_caption_and_numeric_string_id_are_accepted(tmp_path: Path) -> None:
    listed: list[dict[str, Any]] = [
        {"split": "train", "id": "007", "file_path": "./a//1.jpg", "captions": " A  man. "},
        {"split": "test", "id": 8, "file_path": "a/2.jpg", "captions": ["A boy."]},
    ]
    build(tmp_path, "reid_raw.json", [{**each, "id": int(each["id"])} for each in listed])
    (tmp_path / "reid_raw.json").write_text(json.dumps(listed))
    raw = read_dataset("cuhk_pedes", tmp_path, ReadOptions())
    assert raw.train == (Record(str(tmp_path / "imgs" / "a" / "1.jpg"), 7, 0, ("A man.",)),)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    build(tmp_path, "reid_raw.json", cuhk_pedes.ENTRIES)
    listed = (tmp_path / "reid_raw.json").read_bytes()
    (tmp_path / "reid_raw.json").write_bytes(b"\xef\xbb\xbf" + listed)
    assert len(read_dataset("cuhk_pedes", tmp_path, ReadOptions()).train) == 5


def test_captions_of_repeated_images_are_merged(tmp_path: Path) -> None:
    raw = read_cuhk(
        tmp_path,
        [
            entry("train", 1, "a/1.jpg", "One.", "Two."),
            entry("test", 2, "a/2.jpg", "A man.", "A man."),
            entry("train", 1, "a/1.jpg", "Two.", "Three."),
        ],
    )
    assert [record.captions for record in raw.train] == [("One.", "Two.", "Three.")]
    assert len(raw.test.query) == 2, "a caption repeated within an entry gives two queries"


def test_excluded_entries_are_counted_in_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        raw = read_cuhk(
            tmp_path,
            [
                entry("train", 1, "a/1.jpg", "One.", " \t"),
                entry("train", 1, "a/2.jpg", ""),
                entry("train", 3, "a/1.jpg", "Another person."),
                entry("test", 4, "a/4.jpg", "A man."),
                entry("test", 4, "a/5.jpg", " ", ""),
            ],
        )
    assert below_images(raw, raw.train) == ["a/1.jpg"]
    assert raw.train[0].captions == ("One.",)
    assert below_images(raw, raw.test.gallery) == ["a/4.jpg", "a/5.jpg"]
    assert [query.captions for query in raw.test.query] == [("A man.",)]
    messages = sorted(record.getMessage() for record in caplog.records)
    file = tmp_path / "reid_raw.json"
    assert [message for message in messages if ": excluded " in message] == [
        f"CUHK-PEDES: excluded 1 second persons of an image in {file}",
        f"CUHK-PEDES: excluded 1 training images without a caption in {file}",
        f"CUHK-PEDES: excluded 4 empty captions in {file}",
    ]


def test_overlong_caption_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"entry 2: expected a text about one person.*9,999"):
        read_cuhk(
            tmp_path,
            [entry("train", 1, "a/1.jpg", "One."), entry("test", 2, "a/2.jpg", "man " * 2500)],
        )


def test_captions_without_latin_letters_are_kept_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        raw = read_cuhk(
            tmp_path,
            [
                entry("train", 1, "a/1.jpg", "一个穿红外套的男人。", "A man, 红外套."),
                entry("test", 2, "a/2.jpg", "Женщина в пальто."),
            ],
        )
    assert raw.train[0].captions == ("一个穿红外套的男人。", "A man, 红外套.")
    (message,) = (record.getMessage() for record in caplog.records)
    assert "2 captions" in message
    assert "no Latin letter" in message


def test_valid_list_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_cuhk(tmp_path, cuhk_pedes.ENTRIES)
    assert caplog.records == []


def test_msmt17_folders_do_not_define_splits(tmp_path: Path) -> None:
    icfg_pedes.MINIATURES["icfg_pedes"].build(tmp_path)
    raw = read_dataset("icfg_pedes", tmp_path, ReadOptions())
    assert [record.person_id for record in raw.train] == [0, 0, 1, 2]
    assert [record.person_id for record in raw.test.gallery] == [3, 3, 4]
    assert raw.facts == {"num_training_captions": 4, "added_to_test_ids": 0}


def test_test_ids_starting_at_0_become_distinct(tmp_path: Path) -> None:
    for name, first_test_id in (("unique", 3), ("again", 0)):
        build(tmp_path / name, "ICFG-PEDES.json", icfg_pedes.entries(first_test_id))
    unique = read_dataset("icfg_pedes", tmp_path / "unique", ReadOptions())
    again = read_dataset("icfg_pedes", tmp_path / "again", ReadOptions())
    assert again.facts == {**unique.facts, "added_to_test_ids": 3}
    assert ids(again.test) == ids(unique.test) == [3, 3, 4]


def ids(split: Split) -> list[int]:
    return [record.person_id for record in split.gallery]


def test_person_in_both_splits_is_rejected(tmp_path: Path) -> None:
    entries = [
        *icfg_pedes.entries(3),
        entry("test", 0, "test/0627/0627_012_04_0303noon_2_0.jpg", "A."),
    ]
    build(tmp_path, "ICFG-PEDES.json", entries)
    with pytest.raises(
        ValueError, match=r"ICFG-PEDES.json has person 0 in train and in test\. Exp"
    ):
        read_dataset("icfg_pedes", tmp_path, ReadOptions())
