"""A full disk is recognised in the errors of every library."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from runner.config.disk_space import (
    DiskFullError,
    explain_full_disk,
    full_disk_errno,
    full_disk_message,
)

FULL = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), errno.ENOSPC),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), errno.EDQUOT),
    (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), errno.EFBIG),
    (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
    (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
]


@pytest.mark.parametrize(("error", "number"), FULL)
def test_full_disk_is_recognised_also_as_a_cause(error: Exception, number: int) -> None:
    assert full_disk_errno(error) == number
    other = KeyError("other")
    other.__cause__ = error
    assert full_disk_errno(other) == number
    assert full_disk_message(other)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("28"), OSError()])
def test_other_errors_are_not(error: Exception, tmp_path: Path) -> None:
    assert full_disk_errno(error) is None
    assert full_disk_message(error) is None
    with pytest.raises(type(error)), explain_full_disk(tmp_path):
        raise error


def test_message_names_file_and_sizes(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "tensors.safetensors"
    with pytest.raises(DiskFullError) as caught, explain_full_disk(file, 2_500_000):
        raise FULL[0][0]
    message = full_disk_message(caught.value)
    assert message is not None
    assert f"cannot write {file}: no space left on device (2.5 MB needed, " in message
    assert "MB free" in message
    assert caught.value.errno == errno.ENOSPC


def test_path_of_the_operating_system_is_named(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "matrix.png"))
    assert f"cannot write {tmp_path / 'matrix.png'}: no space" in (full_disk_message(error) or "")
