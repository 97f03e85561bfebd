"""Checks before a local cluster is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch

from runner.config.run_config import RunConfig
from runner.on_ray import cluster
from runner.on_ray.cluster import connected
from runner.training.termination import RunFailedError

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class StartedError(Exception):
    """Raised instead of starting a cluster."""


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_a_local_cluster_has_the_gpus_of_the_machine(
    num_gpus: int,
    tmp_path: Path,
    tiny_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: object) -> None:
        raise StartedError

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    config = tiny_config(tmp_path, "finetune", "cluster.num_workers=1", "cluster.use_gpu=true")
    expected, message = (RunFailedError, "StartedError") if num_gpus else (ValueError, "got 0")
    with pytest.raises(expected, match=message), connected(config):
        pass


@pytest.mark.parametrize("address", ["local", "other:1"])
def test_only_a_cluster_of_machines_watches_for_reclaimed_machines(
    address: str,
    tmp_path: Path,
    tiny_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values: list[str | None] = []

    def record(**_: object) -> None:
        values.append(os.environ.get(WATCHER))
        raise StartedError

    monkeypatch.setenv(WATCHER, "")  # restored at the end of the test
    monkeypatch.delenv(WATCHER)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", record)
    monkeypatch.setattr(cluster, "_check_reachable", lambda _: None)
    changes = ["cluster.num_workers=1", f"cluster.address={address}"]
    config = tiny_config(tmp_path, "finetune", *changes)
    with pytest.raises((RunFailedError, ConnectionError)), connected(config):
        pass
    assert values == ["0" if address == "local" else None]
