from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.descriptions.store import DescriptionStore, Row


def row(number: int, asked: str = "q", **fields) -> Row:
    return Row(f"{number:064x}", asked, {"head": f"text {number} ä"}, **fields)


def rows(folder: Path, asked: str = "q") -> dict[str, Row]:
    with DescriptionStore(folder) as store:
        return store.rows(asked)


def test_rows_round_trip_through_shards(tmp_path: Path) -> None:
    failed = Row("f" * 64, "q", {}, "no answer", True, 3)
    with DescriptionStore(tmp_path, rows_per_shard=4) as store:
        for number in range(9):
            store.add(row(number))
        store.add(failed)
        assert len(store.rows("q")) == 10
        assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [
            "shard-000001.parquet", "shard-000002.parquet",
        ]  # fmt: skip
    expected = {f"{number:064x}": row(number) for number in range(9)} | {"f" * 64: failed}
    assert rows(tmp_path) == expected
    assert (tmp_path / "journal.jsonl").read_bytes() == b""
    assert not list(tmp_path.glob(".shard*"))
    assert sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet")) == 10


def test_latest_row_per_source(tmp_path: Path) -> None:
    with DescriptionStore(tmp_path, rows_per_shard=1) as store:
        store.add(row(1, reason="bad"))
        store.add(row(1))
        store.add(row(1, asked="other", reason="bad"))
    assert rows(tmp_path) == {row(1).image: row(1)}
    assert rows(tmp_path, "other")[row(1).image].reason == "bad"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400), st.integers(1, 4))
def test_kill_at_any_byte_loses_at_most_the_incomplete_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = DescriptionStore(folder, rows_per_shard=per_shard + 10)
    store.__enter__()
    for number in range(per_shard):
        store.add(row(number))
    journal = (folder / "journal.jsonl").read_bytes()
    assert store._lock_file is not None
    store._lock_file.close()
    (folder / "journal.jsonl").write_bytes(journal[:cut])
    kept = journal[:cut].count(b"\n")
    assert rows(folder) == {row(number).image: row(number) for number in range(kept)}
    assert rows(folder) == {row(number).image: row(number) for number in range(kept)}


def test_killed_between_shard_and_journal(tmp_path: Path) -> None:
    with DescriptionStore(tmp_path) as store:
        store.add(row(1))
        journal = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(journal)
    (tmp_path / ".shard-000009.parquet.123").write_bytes(b"half")
    assert rows(tmp_path) == {row(1).image: row(1)}


def test_damaged_shard(tmp_path: Path) -> None:
    with DescriptionStore(tmp_path) as store:
        store.add(row(1))
    (shard,) = tmp_path.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"shard-000001\.parquet is damaged"):
        rows(tmp_path)


def test_threads_add_concurrently(tmp_path: Path) -> None:
    with DescriptionStore(tmp_path, rows_per_shard=7) as store:
        threads = [
            threading.Thread(target=lambda at=at: [store.add(row(at * 100 + n)) for n in range(20)])
            for at in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(rows(tmp_path)) == 80
