"""Waiting for the resources of a cluster with an autoscaler."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import ray
import ray.autoscaler.sdk

from runner.config.run_config import RunConfig

MIN_WORKER_CPUS = 0.25
POLL_S = 2.0
TRAIN_START_TIMEOUT_S = 60.0
"""Default time that Ray Train waits for resources when it starts workers."""


def worker_bundles(config: RunConfig) -> list[dict[str, float]]:
    """Returns the minimum resources of a run: one bundle per worker and one for decoding."""
    cluster = config.cluster
    worker = {"CPU": cluster.cpus_per_worker or MIN_WORKER_CPUS}
    if cluster.use_gpu:
        worker["GPU"] = 1.0
    return [*([worker] * cluster.num_workers), {"CPU": config.data.decode_cpus}]


def wait_for_resources(bundles: Sequence[Mapping[str, float]], wait_s: float) -> dict[str, float]:
    """Requests resources from the autoscaler and waits until the cluster provides them.

    An autoscaler adds nodes for pending tasks, but a run checks its resources before its first
    task. This function therefore requests the nodes explicitly. The request is cancelled at the
    end, because from then on the tasks of the run keep the nodes alive.

    Args:
        bundles: resources by name, one mapping per worker or task.
        wait_s: maximum time to wait, in seconds; 0 requests nothing and returns immediately.

    Returns:
        Total cluster resources by name; they may be insufficient, which the caller must check.
    """
    resources = _resources()
    if wait_s <= 0 or _suffice(resources, bundles):
        return resources
    deadline = time.monotonic() + wait_s
    ray.autoscaler.sdk.request_resources(bundles=[_round_up(bundle) for bundle in bundles])
    try:
        while not _suffice(resources, bundles) and (remaining_s := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_S, remaining_s))
            resources = _resources()
    finally:
        ray.autoscaler.sdk.request_resources(bundles=[])
    return resources


def start_timeout(wait_s: float) -> dict[str, str]:
    """Returns environment variables that let Ray Train wait `wait_s` to replace a lost node."""
    if wait_s <= TRAIN_START_TIMEOUT_S:
        return {}
    return {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{wait_s:g}"}


def _resources() -> dict[str, float]:
    return {name: float(amount) for name, amount in ray.cluster_resources().items()}


def _suffice(resources: Mapping[str, float], bundles: Sequence[Mapping[str, float]]) -> bool:
    names = {name for bundle in bundles for name in bundle}
    needs = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}
    return all(resources.get(name, 0.0) >= need for name, need in needs.items())


def _round_up(bundle: Mapping[str, float]) -> dict[str, int]:
    """Rounds up, because the autoscaler only supports whole CPUs and GPUs."""
    return {name: math.ceil(amount) for name, amount in bundle.items()}
