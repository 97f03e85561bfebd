"""Decoded images shared by the trials of a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from runner.config.run_config import RunConfig
from runner.experiment import read_benchmark, run_experiment
from runner.streaming import decoded_cache
from runner.streaming.decoded_cache import evaluation_files, training_files
from runner.streaming.image_decoding import decode_many
from tasks.schema import Benchmark

MakeConfig = Callable[..., RunConfig]
SIZE = (64, 32)


@pytest.fixture(scope="module")
def config(
    tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> RunConfig:
    return tiny_config(tmp_path_factory.mktemp("runs"), "finetune", "learner.epochs=1")


@pytest.fixture(scope="module")
def benchmark_(config: RunConfig) -> Benchmark:
    return read_benchmark(config)


@pytest.fixture(scope="module")
def shared(benchmark_: Benchmark, config: RunConfig) -> Any:
    from runner.on_ray.shared_images import share_images

    return share_images([benchmark_], config)


def all_files(benchmark: Benchmark) -> list[str]:
    groups = [*evaluation_files(benchmark.domains), *training_files(benchmark.seen)]
    return [path for group in groups for path in group]


def test_all_images_are_shared(shared: Any, benchmark_: Benchmark) -> None:
    paths = all_files(benchmark_)
    assert shared.num_shared == shared.num_images == len(paths)
    assert str(shared) == f"{len(paths)} of {len(paths)} images are decoded once for all runs"
    served = shared.decoder()(paths, *SIZE)
    np.testing.assert_array_equal(served.pixels, decode_many(paths, *SIZE).pixels)
    assert not served.errors


@pytest.mark.slow
def test_shared_images_are_not_copied_and_survive_trials(
    shared: Any, benchmark_: Benchmark
) -> None:
    import ray
    from ray.exceptions import RayActorError

    paths = all_files(benchmark_)[:4]

    class Trial:
        def look(self, shared: Any) -> tuple[bool, int]:
            pixels = shared.decoder()(paths, *SIZE).pixels
            return bool(pixels.flags.writeable), int(pixels.sum())

        def die(self) -> None:
            os._exit(1)

    expected = int(decode_many(paths, *SIZE).pixels.sum(dtype=np.int64))
    trial: Any = ray.remote(num_cpus=0)(Trial).remote()
    assert ray.get(trial.look.remote(shared)) == (False, expected)
    with pytest.raises(RayActorError):
        ray.get(trial.die.remote())
    assert int(shared.decoder()(paths, *SIZE).pixels.sum(dtype=np.int64)) == expected


def test_a_run_on_shared_images_gives_the_same_results(
    shared: Any,
    config: RunConfig,
    no_figures: None,
    numbers_of: Callable[[Mapping[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = run_experiment(config, fresh=True).results

    def decode_nothing(paths: list[str], *_: int) -> Any:
        assert not paths
        return decode_many(paths, *SIZE)

    monkeypatch.setattr(decoded_cache, "decode_many", decode_nothing)
    together = run_experiment(config, fresh=True, shared=shared).results
    assert numbers_of(together) == numbers_of(alone)


def test_images_beyond_the_budget_are_not_shared(benchmark_: Benchmark, config: RunConfig) -> None:
    from runner.on_ray.shared_images import share_images

    tests, train = evaluation_files(benchmark_.domains), training_files(benchmark_.seen)
    num_tests = sum(map(len, tests))

    def share(evaluation_images: int, training_images: int) -> Any:
        def share_of_store(num_images: int) -> float:
            return (num_images + 0.5) * SIZE[0] * SIZE[1] * 3 / 300_000_000

        shares = {
            "evaluation_cache_share": share_of_store(evaluation_images),
            "object_store_share": share_of_store(training_images),
        }
        data = config.data.model_copy(update=shares)
        return share_images([benchmark_], config.model_copy(update={"data": data}))

    some = share(num_tests, 1)
    assert some.num_shared == num_tests < some.num_images
    assert "decode the others themselves: all together exceed data.evaluation_cache_s" in str(some)
    decoder = some.decoder()
    assert decoder is not None
    assert decoder.contains(tests[0], *SIZE)
    assert not decoder.contains(train[0], *SIZE)
    paths = all_files(benchmark_)
    served = decoder(paths, *SIZE)
    np.testing.assert_array_equal(served.pixels, decode_many(paths, *SIZE).pixels)
    assert share(1, len(train[0])).num_shared == len(train[0])
    none = share(0, 0)
    assert none.num_shared == 0
    assert none.decoder() is None


def test_a_searched_image_size_shares_nothing(benchmark_: Benchmark, config: RunConfig) -> None:
    from runner.on_ray.shared_images import share_images

    images = share_images([benchmark_], config, ["learner.lr", "backbone.image_width"])
    assert images.num_shared == 0
    assert "backbone.image_width is searched" in str(images)
    assert images.decoder() is None


def test_lost_blocks_are_decoded_by_the_trial(
    shared: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray
    from ray.exceptions import GetTimeoutError

    def lost(*_: object, **__: object) -> None:
        raise GetTimeoutError("not in time")

    monkeypatch.setattr(ray, "get", lost)
    assert shared.decoder() is None
    assert "decoding them in the trial: not in time" in caplog.text


@pytest.mark.slow
def test_a_trial_with_ray_train_workers_uses_shared_images(
    shared: Any,
    config: RunConfig,
    no_figures: None,
    numbers_of: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    alone = run_experiment(config, fresh=True).results
    cluster = config.cluster.model_copy(update={"num_workers": 1, "cpus_per_worker": 1.0})
    # Another name, because the configuration's hash does not depend on `cluster`.
    run = config.run.model_copy(update={"name": "on-ray"})
    on_ray = config.model_copy(update={"cluster": cluster, "run": run})
    assert numbers_of(run_experiment(on_ray, shared=shared).results) == numbers_of(alone)
