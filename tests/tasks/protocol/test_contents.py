"""Contents of files in the lock: every changed file is found, within the budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.protocol import contents
from tasks.protocol.contents import differing_files, lock_contents, read_contents
from tasks.schema import Record


def write(folder: Path, files: dict[str, bytes]) -> dict[str, list[Record]]:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {"train": [Record(str(folder / name), 0, 0) for name in files]}


def locked(folder: Path, files: dict[str, bytes]) -> dict[str, object]:
    return lock_contents(read_contents(folder, write(folder, files))["train"])


FILES = {f"a/{number}.jpg": bytes([number]) * (number + 1) for number in range(5)}


def test_lock_counts_files_and_bytes_and_contains_no_path(tmp_path: Path) -> None:
    lock = locked(tmp_path / "one", FILES)
    assert (lock["num_files"], lock["num_bytes"], lock["num_hashed"]) == (5, 15, 5)
    assert locked(tmp_path / "two", dict(reversed(FILES.items()))) == lock


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=3), min_size=1),
    now=st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=3), min_size=1),
)
def test_locks_are_equal_if_and_only_if_files_are(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], now: dict[str, bytes]
) -> None:
    locks, read = [], []
    for files in (before, now):
        folder = tmp_path_factory.mktemp("files")
        read.append(read_contents(folder, write(folder, files)))
        locks.append(lock_contents(read[-1]["train"]))
    assert (locks[0] == locks[1]) == (before == now)
    changed = [name for name in before.keys() & now.keys() if before[name] != now[name]]
    found = list(differing_files({"d": read[0]}, {"d": read[1]}))
    assert sorted(text.split(" ")[0] for text in found) == sorted(f"d/{each}" for each in changed)


def test_replaced_file_of_equal_size_and_time_is_found(tmp_path: Path) -> None:
    """The cache of hashes must not hide a file that was replaced within the process."""
    before = locked(tmp_path, {"a": b"one"})
    stat = (tmp_path / "a").stat()
    (tmp_path / "b").write_bytes(b"two")
    os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "b").replace(tmp_path / "a")
    now = lock_contents(
        read_contents(tmp_path, {"train": [Record(str(tmp_path / "a"), 0, 0)]})["train"]
    )
    assert now["sizes_sha256"] == before["sizes_sha256"]
    assert now["sha256"] != before["sha256"]


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES"])
def test_beyond_the_budget_all_sizes_and_a_sample_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(contents, limit, 4)
    monkeypatch.setattr(contents, "SAMPLE_SIZE", 2)
    before = locked(tmp_path / "one", FILES)
    assert (before["num_files"], before["num_hashed"]) == (5, 2)
    assert locked(tmp_path / "two", FILES) == before, "the sample depends on the folder"
    for name, content in FILES.items():
        longer = locked(tmp_path / f"longer{name}", {**FILES, name: content + b"x"})
        assert longer["sizes_sha256"] != before["sizes_sha256"]
    changed = [
        locked(tmp_path / f"other{name}", {**FILES, name: b"x" * len(content)})
        for name, content in FILES.items()
    ]
    assert sum(lock["sha256"] != before["sha256"] for lock in changed) == 2


def test_unreadable_file_is_recorded(tmp_path: Path) -> None:
    lists = write(tmp_path, FILES)
    complete = lock_contents(read_contents(tmp_path, lists)["train"])
    (tmp_path / "a/3.jpg").unlink()
    missing = read_contents(tmp_path, lists)
    assert lock_contents(missing["train"]) != complete
    assert lock_contents(missing["train"])["num_hashed"] == 4
