"""Settings of drivers whose Ray tasks execute whole runs (ablations and sweeps)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.config.run_config import RunConfig

_HOME = "LIFELONG_REID_HOME"


def connection_config(config: RunConfig) -> RunConfig:
    """Configuration with small resources for `connected`.

    `connected` checks the resources of a run with workers; these drivers check those of their tasks
    themselves.
    """
    changes = {"num_workers": 1, "use_gpu": False, "cpus_per_worker": None}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=changes)})


@contextmanager
def base_folder_of_driver(folder: str | Path) -> Iterator[None]:
    """Resolves relative paths as in the driver; tasks have another working directory.

    Args:
        folder: `base_folder()` of the driver.
    """
    before = os.environ.get(_HOME)
    os.environ[_HOME] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_HOME]
        else:
            os.environ[_HOME] = before
