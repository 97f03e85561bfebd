"""Memory of this machine, or of the container that limits this process."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""Limit and use of memory in a container, by version 2 and version 1 of control groups."""


def physical_memory_bytes() -> int:
    """Returns the memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Returns the memory that new allocations can use without swapping, in bytes.

    This is MemAvailable of /proc/meminfo, or what the limit of the container leaves if that is
    less.

    Args:
        root: folder that contains `proc` and `sys`.
    """
    available = physical_memory_bytes()
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        lines = meminfo.read_text().splitlines()
        values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        available = min([available, *(int(value) * 1024 for value in values)])
    for limit, used in _CGROUPS:
        files = root / limit.lstrip("/"), root / used.lstrip("/")
        if all(file.is_file() for file in files):
            limit_bytes, used_bytes = (file.read_text().strip() for file in files)
            if limit_bytes.isdecimal():  # "max" is no limit
                available = min(available, int(limit_bytes) - int(used_bytes))
    return max(0, available)
