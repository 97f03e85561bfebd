"""Fixtures shared by the whole test suite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Set before torch or numpy are imported. More threads do not speed up the tiny arrays of the tests,
# and on a busy machine they make each operation ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline per example, because the machine may be busy.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Group tests by file for `--dist loadfile`, with all files that use Ray in one group.

    A session then starts Ray once, and module fixtures are created once. Marks per test
    (`--dist loadgroup`) would be equivalent, but are ignored by pytest 9.2:
    pytest-dev/pytest-xdist#1386.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class RayTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if file in ray_files else file

    ray_files = {
        path.relative_to(config.rootpath).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "ray_session" in path.read_text(encoding="utf-8")
    }
    return RayTogether(config, log)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start the local Ray of the test session: 4 logical CPUs, 300 MB of object store."""
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    yield
    ray.shutdown()
