"""Waiting for resources of a cluster with an autoscaler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from runner.config.run_config import RunConfig
from runner.on_ray import resources
from runner.on_ray.resources import (
    TRAIN_START_TIMEOUT_S,
    start_timeout,
    wait_for_resources,
    worker_bundles,
)

WORKER, DECODING = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 0.25}


class Autoscaler:
    """Adds a node at every second query once resources have been requested.

    Attributes:
        requests: all requests, in order.
        num_queries: number of queries of the cluster resources.
    """

    def __init__(self, nodes: int = 0, max_nodes: int = 2) -> None:
        self.requests = list[list[dict[str, float]]]()
        self.num_queries = 0
        self._nodes, self._max_nodes = nodes, max_nodes

    def cluster_resources(self) -> dict[str, float]:
        self.num_queries += 1
        if self.requests and self.requests[-1] and self.num_queries % 2 == 0:
            self._nodes = min(self._nodes + 1, self._max_nodes)
        workers = {"CPU": 8.0 * self._nodes, "GPU": 1.0 * self._nodes}
        return {"CPU": 2.0} if not self._nodes else workers | {"CPU": 2.0 + workers["CPU"]}

    def request_resources(self, bundles: list[dict[str, float]]) -> None:
        self.requests.append(bundles)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Simulated time that advances only in sleep."""
    passed = [0.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: passed[0])
    monkeypatch.setattr(
        resources.time, "sleep", lambda seconds: passed.__setitem__(0, passed[0] + seconds)
    )
    return passed


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Autoscaler]:
    def make(**arguments: int) -> Autoscaler:
        autoscaler = Autoscaler(**arguments)
        monkeypatch.setattr(ray, "cluster_resources", autoscaler.cluster_resources)
        monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", autoscaler.request_resources)
        return autoscaler

    return make


def test_no_wait_without_wait_s(start: Callable[..., Autoscaler], clock: list[float]) -> None:
    autoscaler = start()
    assert wait_for_resources([WORKER, DECODING], 0.0) == {"CPU": 2.0}
    assert (autoscaler.requests, autoscaler.num_queries, clock) == ([], 1, [0.0])


def test_available_resources_are_not_requested(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start(nodes=1)
    assert wait_for_resources([WORKER, DECODING], 600.0)["GPU"] == 1
    assert (autoscaler.requests, clock) == ([], [0.0])


def test_missing_resources_are_requested_and_the_request_is_cancelled(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start()
    assert wait_for_resources([WORKER, WORKER, DECODING], 600.0) == {"CPU": 18.0, "GPU": 2.0}
    requested, cancelled = autoscaler.requests
    assert requested == [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 1}]
    assert all(isinstance(amount, int) for bundle in requested for amount in bundle.values())
    assert cancelled == []
    assert 0 < clock[0] < 600


def test_waiting_ends_after_wait_s(start: Callable[..., Autoscaler], clock: list[float]) -> None:
    autoscaler = start(max_nodes=1)
    assert wait_for_resources([WORKER, WORKER], 15.0)["GPU"] == 1
    assert clock == [15.0]
    assert autoscaler.requests[-1] == []


def test_the_request_is_cancelled_after_an_interrupt(
    start: Callable[..., Autoscaler], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    autoscaler = start()
    monkeypatch.setattr(resources.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for_resources([WORKER], 60.0)
    assert autoscaler.requests[-1] == []


def test_worker_bundles(tmp_path: Path, tiny_config: Callable[..., RunConfig]) -> None:
    gpus = ("cluster.num_workers=2", "cluster.use_gpu=true", "cluster.cpus_per_worker=4")
    decoding = "data.decode_cpus=0.25"
    bundles = worker_bundles(tiny_config(tmp_path, "finetune", decoding, *gpus))
    assert bundles == [WORKER, WORKER, DECODING]
    config = tiny_config(tmp_path, "finetune", decoding, "cluster.num_workers=1")
    assert worker_bundles(config) == [{"CPU": 0.25}, DECODING]


def test_the_start_timeout_of_ray_train() -> None:
    from ray.train.v2._internal import constants

    assert start_timeout(0.0) == {}
    assert start_timeout(900.0) == {constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: "900"}
    assert set(start_timeout(900.0)) <= constants.ENV_VARS_TO_PROPAGATE
    assert constants.DEFAULT_WORKER_GROUP_START_TIMEOUT_S == TRAIN_START_TIMEOUT_S
