from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from runner.training.prototype_store import LocalPrototypeStore, PrototypeStore, StaleVersionError

MakeStore = Callable[[], PrototypeStore]
"""Returns a client of the same store; the local store is its only client."""


@pytest.fixture(scope="module")
def ray_store(ray_session: None) -> Iterator[MakeStore]:
    from runner.on_ray.prototype_actor import RayPrototypeStore, serve_prototypes

    with serve_prototypes("test"):
        yield lambda: RayPrototypeStore("test")


@pytest.fixture(params=["local", "ray"])
def connect(request: pytest.FixtureRequest) -> MakeStore:
    if request.param == "local":
        store = LocalPrototypeStore()
        return lambda: store
    shared: MakeStore = request.getfixturevalue("ray_store")
    shared().reset(0, {})
    return shared


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 4, 3, generator=generator)
    return {
        "prototypes": values,
        "half": values.to(torch.bfloat16),
        "transposed": values.permute(2, 0, 1),
        "counts": torch.arange(5),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 3),
    }


def assert_same(latest: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert latest.keys() == expected.keys()
    for name, tensor in expected.items():
        assert latest[name].dtype == tensor.dtype
        assert torch.equal(latest[name], tensor)


def test_version_zero_is_empty(connect: MakeStore) -> None:
    assert connect().latest() == (0, {})


def test_published_tensors_are_restored_exactly(connect: MakeStore) -> None:
    assert connect().publish(tensors(), expected_version=0) == 1
    version, latest = connect().latest()
    assert version == 1
    assert_same(latest, tensors())


def test_a_stale_writer_is_rejected(connect: MakeStore) -> None:
    first, second = connect(), connect()
    first.publish({"a": torch.ones(2)}, expected_version=0)
    with pytest.raises(StaleVersionError, match="latest version 0, got 1") as refused:
        second.publish({"a": torch.zeros(2)}, expected_version=0)
    assert (refused.value.expected, refused.value.latest) == (0, 1)
    version, latest = second.latest()
    assert torch.equal(latest["a"], torch.ones(2))
    assert second.publish({"a": torch.zeros(2)}, expected_version=version) == 2


def test_readers_get_copies(connect: MakeStore) -> None:
    source = torch.ones(3, requires_grad=True)
    connect().publish({"a": source}, expected_version=0)
    with torch.no_grad():
        source.zero_()
    _, latest = connect().latest()
    latest["a"].zero_()
    assert torch.equal(connect().latest()[1]["a"], torch.ones(3))


def test_reset_replaces_version_and_tensors(connect: MakeStore) -> None:
    store = connect()
    store.publish({"a": torch.ones(2)}, expected_version=0)
    store.reset(7, {"b": torch.zeros(1)})
    version, latest = store.latest()
    assert (version, list(latest)) == (7, ["b"])
    assert store.publish({}, expected_version=7) == 8


def test_tensors_survive_the_death_of_the_publishing_worker(ray_session: None) -> None:
    import ray

    from runner.on_ray.prototype_actor import RayPrototypeStore, serve_prototypes

    class Publisher:
        def publish(self) -> int:
            # Larger than the limit for inline results, so it is in the object store.
            return RayPrototypeStore("mortal").publish(
                {"a": torch.ones(200_000)}, expected_version=0
            )

    with serve_prototypes("mortal"):
        publisher = ray.remote(num_cpus=0)(Publisher).remote()
        assert ray.get(publisher.publish.remote()) == 1
        ray.kill(publisher)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(publisher.publish.remote())
        version, latest = RayPrototypeStore("mortal").latest()
    assert version == 1
    assert torch.equal(latest["a"], torch.ones(200_000))


def test_a_second_store_of_the_same_run_is_rejected(ray_session: None) -> None:
    from runner.on_ray.prototype_actor import serve_prototypes

    with (
        serve_prototypes("one"),
        pytest.raises(ValueError, match="prototypes-one"),
        serve_prototypes("one"),
    ):
        pass
