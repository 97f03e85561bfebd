from __future__ import annotations

import json
import logging
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.benchmarks import (
    BenchmarkConfig,
    check_benchmark,
    load_benchmark,
)
from tasks.datasets.synthetic import SyntheticConfig
from tasks.protocol.identities import split_validation
from tasks.protocol.lock import num_queries_without_match
from tasks.schema import Benchmark, Record, Split

TINY = SyntheticConfig(
    num_seen_domains=2,
    num_unseen_domains=1,
    num_train_identities=7,
    num_unseen_validation_identities=3,
    num_test_identities=3,
    num_cameras=2,
    height=16,
    width=8,
    supersampling=1,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def tiny(root: Path, **changes: object) -> BenchmarkConfig:
    fields = {"root": str(root), "synthetic": TINY, "num_validation_identities": 2, **changes}
    return BenchmarkConfig.model_validate(fields)


def load(root: Path, **changes: object) -> Benchmark:
    return load_benchmark(tiny(root, **changes), image_height=16, image_width=8)


def ids(records: tuple[Record, ...]) -> set[int]:
    return {record.person_id for record in records}


def test_rule_all_holds_out_largest_ids(root: Path) -> None:
    benchmark = load(root)
    assert [domain.name for domain in benchmark.domains] == ["plaza", "station", "mall"]
    for domain in benchmark.seen:
        assert ids(domain.train) == set(range(5)) == set(range(domain.num_persons))
        assert ids(domain.validation.query) == ids(domain.validation.gallery) == {6, 7}
        assert ids(domain.test.query) == ids(domain.test.gallery) == {1001, 1002, 1003}
    lock = benchmark.lock["domains"]["plaza"]["identities"]
    assert lock["train"]["ids"] == [1, 2, 3, 4, 5]
    assert lock["validation"]["ids"] == [6, 7]


def test_unseen_domains_have_validation_but_no_training_images(root: Path) -> None:
    (mall,) = load(root).unseen
    assert mall.train == ()
    assert ids(mall.validation.query) == {2, 3}
    (mall,) = load(root, num_validation_identities=5).unseen
    assert ids(mall.validation.query) == {1, 2, 3}


def test_numeric_rule_trains_on_smallest_ids(root: Path) -> None:
    benchmark = load(root, identities=3, num_validation_identities=3)
    lock = benchmark.lock["domains"]["station"]["identities"]
    assert lock["train"]["ids"] == [1, 2, 3]
    assert lock["validation"]["ids"] == [5, 6, 7]
    assert benchmark.lock["identity_rule"] == "3"


def test_identity_file_and_folder(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("4\n0002\n\n6\n")
    benchmark = load(root, identities=str(listed))
    lock = benchmark.lock["domains"]["plaza"]["identities"]
    assert lock["train"]["ids"] == [2, 4, 6]
    assert lock["validation"]["ids"] == [5, 7]
    assert benchmark.lock["identity_rule"] == "ids.txt"
    (tmp_path / "plaza.txt").write_text("1\n")
    only = load(root, identities=str(tmp_path), order=("plaza",))
    assert only.lock["domains"]["plaza"]["identities"]["train"]["ids"] == [1]
    with pytest.raises(FileNotFoundError, match=r"station\.txt does not exist"):
        check_benchmark(tiny(root, identities=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\nx2\n", r"line 2: expected a person id, got 'x2'"),
        ("\n", "lists no identity"),
        ("1\n99\n", r"lists identity 99 and 0 more that the training folder of plaza"),
    ],
)
def test_invalid_identity_file(root: Path, tmp_path: Path, text: str, message: str) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(root, identities=str(listed))


def test_too_few_identities(root: Path) -> None:
    message = r"plaza has 7 training identities, .* is 500; set benchmark\.identities=all"
    with pytest.raises(ValueError, match=message):
        load(root, identities=500)
    with pytest.raises(ValueError, match=r"is 2, but benchmark\.identities=6 leaves 1 of 7"):
        load(root, identities=6)
    with pytest.raises(ValueError, match="leaves none of 7 identities for training"):
        load(root, num_validation_identities=7)


def test_no_validation(root: Path) -> None:
    benchmark = load(root, num_validation_identities=0)
    assert benchmark.seen[0].num_persons == 7
    assert all(domain.validation == Split((), ()) for domain in benchmark.domains)


def test_descriptions_are_attached_to_training_only(root: Path) -> None:
    plaza = load(root).seen[0]
    assert all(len(record.parts) == 4 and record.caption for record in plaza.train)
    assert all(record.caption == " ".join(record.parts) for record in plaza.train)
    assert not any(record.parts for record in plaza.validation.query + plaza.test.gallery)


def test_order_selects_and_sorts_seen_domains(root: Path) -> None:
    benchmark = load(root, order=("station",))
    assert [domain.name for domain in benchmark.seen] == ["station"]
    assert benchmark.lock["order"] == ["station"]
    assert [d.name for d in load(root, order=("station", "plaza")).seen] == ["station", "plaza"]
    with pytest.raises(ValidationError, match=r"order: expected .*plaza, station.* got 'harbour'"):
        tiny(root, order=("harbour",))
    with pytest.raises(ValidationError, match="twice"):
        tiny(root, order=("plaza", "plaza"))


def test_lock_is_json_stable_and_without_paths(root: Path, tmp_path: Path) -> None:
    lock = load(root).lock
    assert json.loads(json.dumps(lock)) == lock
    assert load(tmp_path).lock == lock
    assert str(root) not in json.dumps(lock)
    assert lock["image_size"] == [16, 8]
    assert lock["generator_version"] >= 1
    plaza = lock["domains"]["plaza"]
    assert plaza["num_images"] == {
        "train": 20,
        "validation_query": 4,
        "validation_gallery": 4,
        "test_query": 6,
        "test_gallery": 6,
    }
    assert plaza["num_queries_without_match"] == {"validation": 0, "test": 0}
    assert len(plaza["description_sha256"]) == 64


def market(root: Path) -> Path:
    names = {
        "bounding_box_train": [
            f"{person:04d}_c{camera}s1_00000{person}_{camera:02d}.jpg"
            for person in range(1, 7)
            for camera in ((1, 2) if person != 6 else (3,))
        ],
        "query": ["0101_c1s1_000001_00.jpg", "0102_c1s1_000001_00.jpg"],
        "bounding_box_test": ["0101_c2s1_000001_01.jpg", "0102_c1s1_000002_01.jpg"],
    }
    for folder, files in names.items():
        (root / "Market-1501" / folder).mkdir(parents=True)
        for name in files:
            (root / "Market-1501" / folder / name).write_bytes(b"")
    return root


def test_single_data_set_as_benchmark(tmp_path: Path) -> None:
    config = BenchmarkConfig(name="market1501", root=str(market(tmp_path)), identities=3,
                             num_validation_identities=2)  # fmt: skip
    benchmark = load_benchmark(config, image_height=256, image_width=128)
    (domain,) = benchmark.seen
    assert benchmark.unseen == ()
    assert domain.num_persons == 3
    # Person 6 has images by one camera only, so it cannot be used for validation.
    assert ids(domain.validation.query) == {4, 5}
    assert all(record.parts == () for record in domain.train)
    lock = benchmark.lock
    assert lock["domains"]["market1501"]["description_sha256"] is None
    assert lock["domains"]["market1501"]["num_queries_without_match"]["test"] == 1
    assert (lock["generator_version"], lock["synthetic"]) == (None, None)


def test_check_benchmark_reports_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected bounding_box_train"):
        check_benchmark(BenchmarkConfig(name="market1501", root=str(tmp_path)))


def test_incomplete_description_file(tmp_path: Path) -> None:
    market(tmp_path)
    text = "0001_c1s1_000001_01.jpg\t\t\ta\t\t\tb\t\t\tc\t\t\td\n"
    (tmp_path / "Market-1501" / "market1501_description.txt").write_text(text)
    config = BenchmarkConfig(name="market1501", root=str(tmp_path), num_validation_identities=0)
    with pytest.raises(ValueError, match=r"lacks 0001_c2s1_000001_02\.jpg and 9 more"):
        load_benchmark(config, image_height=64, image_width=32)


def test_repeated_descriptions_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    market(tmp_path)
    rows = [
        f"{path.name}\t\t\ta\t\t\tb\t\t\tc\t\t\td\n"
        for path in sorted((tmp_path / "Market-1501" / "bounding_box_train").iterdir())
    ]
    text = "".join(rows + rows[:3])
    (tmp_path / "Market-1501" / "market1501_description.txt").write_text(text)
    config = BenchmarkConfig(name="market1501", root=str(tmp_path), num_validation_identities=0)
    with caplog.at_level(logging.WARNING):
        load_benchmark(config, image_height=64, image_width=32)
    assert "3 lines of" in caplog.text


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=30))
def test_every_validation_query_has_a_match(shots: list[tuple[int, int]]) -> None:
    records = [
        Record(f"/x/{person:04d}_c{camera}_{number:03d}.jpg", person, camera)
        for number, (person, camera) in enumerate(shots)
    ]
    cameras = {
        person: {camera for _, camera in group}
        for person, group in groupby(sorted(set(shots)), key=lambda shot: shot[0])
    }
    people = [person for person, seen_by in cameras.items() if len(seen_by) > 1]
    split = split_validation(records, people)
    assert num_queries_without_match(split) == 0
    assert {record.person_id for record in split.query} == set(people)
    used = [record for record in records if record.person_id in people]
    assert sorted(split.query + split.gallery, key=str) == sorted(used, key=str)
    pairs = [(record.person_id, record.camera_id) for record in split.query]
    assert len(pairs) == len(set(pairs))
