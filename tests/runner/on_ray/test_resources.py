"""A run waits for machines only if told to, asks for them, and takes its request back."""

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
    """Adds a machine at every second look, once it has been asked.

    Attributes:
        requests: every request, in order.
        looks: how often the cluster's resources were read.
    """

    def __init__(self, machines: int = 0, at_most: int = 2) -> None:
        self.requests = list[list[dict[str, float]]]()
        self.looks = 0
        self._machines, self._at_most = machines, at_most

    def cluster_resources(self) -> dict[str, float]:
        self.looks += 1
        if self.requests and self.requests[-1] and self.looks % 2 == 0:
            self._machines = min(self._machines + 1, self._at_most)
        workers = {"CPU": 8.0 * self._machines, "GPU": 1.0 * self._machines}
        return {"CPU": 2.0} if not self._machines else workers | {"CPU": 2.0 + workers["CPU"]}

    def request_resources(self, bundles: list[dict[str, float]]) -> None:
        self.requests.append(bundles)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only in sleep."""
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


def test_nobody_waits_who_was_not_told_to(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start()
    assert wait_for_resources([WORKER, DECODING], 0.0) == {"CPU": 2.0}
    assert (autoscaler.requests, autoscaler.looks, clock) == ([], 1, [0.0])


def test_room_that_is_there_is_not_asked_for(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start(machines=1)
    assert wait_for_resources([WORKER, DECODING], 600.0)["GPU"] == 1
    assert (autoscaler.requests, clock) == ([], [0.0])


def test_machines_are_asked_for_awaited_and_the_request_taken_back(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start()
    assert wait_for_resources([WORKER, WORKER, DECODING], 600.0) == {"CPU": 18.0, "GPU": 2.0}
    asked, taken_back = autoscaler.requests
    assert asked == [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 1}]
    assert all(isinstance(amount, int) for bundle in asked for amount in bundle.values())
    assert taken_back == []
    assert 0 < clock[0] < 600


def test_what_never_comes_is_waited_for_no_longer_than_said(
    start: Callable[..., Autoscaler], clock: list[float]
) -> None:
    autoscaler = start(at_most=1)
    assert wait_for_resources([WORKER, WORKER], 15.0)["GPU"] == 1
    assert clock == [15.0]
    assert autoscaler.requests[-1] == []


def test_the_request_is_taken_back_after_ctrl_c_too(
    start: Callable[..., Autoscaler], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    autoscaler = start()
    monkeypatch.setattr(resources.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for_resources([WORKER], 60.0)
    assert autoscaler.requests[-1] == []


def test_what_a_run_asks_for(tmp_path: Path, tiny_config: Callable[..., RunConfig]) -> None:
    gpus = ("cluster.num_workers=2", "cluster.use_gpu=true", "cluster.cpus_per_worker=4")
    decoding = "data.decode_cpus=0.25"
    bundles = worker_bundles(tiny_config(tmp_path, "finetune", decoding, *gpus))
    assert bundles == [WORKER, WORKER, DECODING]
    config = tiny_config(tmp_path, "finetune", decoding, "cluster.num_workers=1")
    assert worker_bundles(config) == [{"CPU": 0.25}, DECODING]


def test_a_lost_machine_is_waited_for_as_long() -> None:
    from ray.train.v2._internal import constants

    assert start_timeout(0.0) == {}
    assert start_timeout(900.0) == {constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: "900"}
    assert set(start_timeout(900.0)) <= constants.ENV_VARS_TO_PROPAGATE
    assert constants.DEFAULT_WORKER_GROUP_START_TIMEOUT_S == TRAIN_START_TIMEOUT_S
