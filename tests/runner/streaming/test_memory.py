from __future__ import annotations

from pathlib import Path

import pytest

from runner.streaming.memory import available_memory_bytes, physical_memory_bytes

KIB = 1024
VERSION_2 = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"
VERSION_1 = (
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/fs/cgroup/memory/memory.usage_in_bytes",
)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["cgroup 1", "cgroup 2"])
@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "7", 5000 * KIB), (str(4000 * KIB), str(1000 * KIB), 3000 * KIB), ("10", "20", 0)],
    ids=["no limit", "limit", "exceeded"],
)
def test_a_container_limits_the_available_memory(
    tmp_path: Path, files: tuple[str, str], limit: str, used: str, expected: int
) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    write(tmp_path, files[0], f"{limit}\n")
    write(tmp_path, files[1], f"{used}\n")
    assert available_memory_bytes(tmp_path) == expected


def test_without_files_the_memory_of_the_machine_is_used(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path) == physical_memory_bytes()
    assert 0 < available_memory_bytes() <= physical_memory_bytes()
