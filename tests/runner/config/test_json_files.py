"""Damaged JSON files are named, with their problem and the remedy."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config import json_files
from runner.config.json_files import DamagedFileError, read_lines, read_object, write_atomically

DOCUMENT = json.dumps({"attempt": 3, "domains": {"plaza": [1, 2]}}, indent=1).encode()
in_any_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_any_folder
@given(st.integers(0, len(DOCUMENT) - 1))
def test_every_truncation_is_detected(tmp_path: Path, length: int) -> None:
    file = tmp_path / "some.json"
    file.write_bytes(DOCUMENT[:length])
    with pytest.raises(DamagedFileError, match=r"some\.json is damaged \(.+\); restore it"):
        read_object(file, remedy="restore it")
    file.write_bytes(DOCUMENT[:length] + b"\0" * (len(DOCUMENT) - length))
    with pytest.raises(DamagedFileError, match=r"some\.json is damaged \(.+\); restore it"):
        read_object(file, remedy="restore it")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\0" * 9, "only zero bytes"),
        (b'{"a": [1,', "ends within"),
        (b"<html>", "expected JSON"),
        (b"[1]", "expected a JSON object, got a list"),
        (b'{"b": 1}', "attempt missing"),
        (b'{"a": "\xff"}', "expected JSON"),
    ],
)
def test_the_problem_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=problem):
        read_object(tmp_path / "some.json", keys=("attempt",), remedy="")


@in_any_folder
@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)), max_size=5),
    st.lists(st.sampled_from([b"{", b"\0\0\0", b"3", b"\xff\xfe", b'{"a": 1} {}']), max_size=3),
    st.randoms(),
)
def test_valid_lines_survive_damaged_ones(
    tmp_path: Path, values: list[dict[str, Any]], damaged: list[bytes], random: Any
) -> None:
    lines = [(index, json.dumps(value).encode()) for index, value in enumerate(values)]
    mixed = [*lines, *((-1, line) for line in damaged)]
    random.shuffle(mixed)
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(line for _, line in mixed))
    read, num_damaged = read_lines(tmp_path / "lines.jsonl", lambda each: isinstance(each, dict))
    assert read == [values[index] for index, _ in mixed if index >= 0]
    assert num_damaged == len(damaged)


def test_missing_lines_file_is_empty(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl", lambda _: True) == ([], 0)


def test_failed_flush_leaves_the_old_text_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a.json", "old")

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_files, "flush_to_disk", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
