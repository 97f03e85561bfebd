"""Room on a cluster whose machines come only when they are asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import ray
import ray.autoscaler.sdk

from runner.config.run_config import RunConfig

MIN_WORKER_CPUS = 0.25
POLL_S = 2.0
TRAIN_WAITS_S = 60.0
"""How long Ray Train waits for room when it starts workers, unless it is told otherwise."""


def worker_bundles(config: RunConfig) -> list[dict[str, float]]:
    """What a run takes at the least: a bundle for each worker, and one for its decoding."""
    cluster = config.cluster
    worker = {"CPU": cluster.cpus_per_worker or MIN_WORKER_CPUS}
    if cluster.use_gpu:
        worker["GPU"] = 1.0
    return [*([worker] * cluster.num_workers), {"CPU": config.data.decode_cpus}]


def await_resources(bundles: Sequence[Mapping[str, float]], wait_s: float) -> dict[str, float]:
    """The cluster's resources, once they hold the bundles or the time has passed.

    An autoscaler starts machines for tasks that wait, but a run refuses before its first task what
    does not fit. So the machines are asked for here, and the request is taken back afterwards:
    from then on the run's own tasks hold them.

    Args:
        bundles: resources by name, each of one worker or task.
        wait_s: 0 asks for nothing and answers at once.

    Returns:
        Totals by resource, whether they suffice or not: who asks refuses in its own words.
    """
    resources = _resources()
    if wait_s <= 0 or _hold(resources, bundles):
        return resources
    deadline = time.monotonic() + wait_s
    ray.autoscaler.sdk.request_resources(bundles=[_whole(bundle) for bundle in bundles])
    try:
        while not _hold(resources, bundles) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left))
            resources = _resources()
    finally:
        ray.autoscaler.sdk.request_resources(bundles=[])
    return resources


def patience(wait_s: float) -> dict[str, str]:
    """Environment that lets Ray Train wait as long for the machine that replaces a lost one."""
    if wait_s <= TRAIN_WAITS_S:
        return {}
    return {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{wait_s:g}"}


def _resources() -> dict[str, float]:
    return {name: float(amount) for name, amount in ray.cluster_resources().items()}


def _hold(resources: Mapping[str, float], bundles: Sequence[Mapping[str, float]]) -> bool:
    names = {name for bundle in bundles for name in bundle}
    needs = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}
    return all(resources.get(name, 0.0) >= need for name, need in needs.items())


def _whole(bundle: Mapping[str, float]) -> dict[str, int]:
    """The autoscaler counts whole CPUs and GPUs."""
    return {name: math.ceil(amount) for name, amount in bundle.items()}
