"""Batches of exemplars: sampling, distribution over workers, decoding."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.learner import OptimizerConfig, ReplayShape, Stage
from runner.config.run_config import RunConfig
from runner.config.sections import DataConfig
from runner.experiment import run_experiment
from runner.streaming.image_decoding import decode_many
from runner.streaming.image_stream import BlockImages, DomainStream, LocalStream, OpenedDomain
from runner.training import loop
from runner.training.batching import (
    PixelBatch,
    Replay,
    check_replay_shape,
    open_replay,
    to_device,
    training_batches,
)
from runner.training.collectives import LocalGroup
from tasks.loading.sampling import cycled_plan, derive_seed, epoch_plan, image_seeds
from tasks.loading.transforms import augment
from tasks.schema import Batch, Benchmark, Domain, Record, Split

MakeConfig = Callable[..., RunConfig]

HEIGHT, WIDTH = 64, 32
NUM_EXEMPLARS = 14
EMPTY = Split((), ())
RUNS = itertools.count()
CPU = torch.device("cpu")


class Worker(LocalGroup):
    """One of several workers, for batching."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size


def pixels_of(num_images: int, seed: int) -> np.ndarray:
    shape = (num_images, HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def opened() -> OpenedDomain:
    """Six people with four images each."""
    train = tuple(Record(f"{index}.jpg", index // 4, index % 3) for index in range(24))
    images = BlockImages([pixels_of(24, 1)], np.arange(24))
    return OpenedDomain(Domain("second", train, EMPTY, EMPTY), images, 0)


@pytest.fixture
def replay() -> Replay:
    """Seven people of an earlier domain, two images each, their ids not contiguous."""
    records = [Record(f"old-{index}.jpg", 5 * (index // 2), 7) for index in range(NUM_EXEMPLARS)]
    images = BlockImages([pixels_of(NUM_EXEMPLARS, 2)], np.arange(NUM_EXEMPLARS))
    return Replay(records, images, ReplayShape(3, 2))


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> RunConfig:
    return tiny_config(tmp_path)


def stage(*views: str) -> Stage:
    return Stage("learn", 2, views, ("*",), OptimizerConfig(lr=1.0))


def assert_same_batches(first: Sequence[Batch], second: Sequence[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("indices", "person_ids", "camera_ids"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.views.keys() == other.views.keys()
        assert all(torch.equal(one.views[name], other.views[name]) for name in one.views)


def batches_of(
    config: RunConfig,
    group: LocalGroup,
    opened: OpenedDomain,
    stage: Stage,
    epoch: int,
    replay: Replay | None = None,
) -> list[Batch]:
    batches = training_batches(config, group, opened, stage, epoch, replay, CPU)
    return [to_device(batch, CPU, config.data.transform) for batch in batches]


def exemplars(batches: Sequence[Batch]) -> list[Batch]:
    replayed = [batch.replay for batch in batches if batch.replay is not None]
    assert len(replayed) == len(batches)
    return replayed


# ---- the plan


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=9),
    num_images=st.integers(1, 3),
    num_batches=st.integers(0, 12),
    data=st.data(),
)
def test_a_cycled_plan_concatenates_epoch_plans(
    counts: list[int], num_images: int, num_batches: int, data: st.DataObject
) -> None:
    num_persons = data.draw(st.integers(1, len(counts)))
    person_ids = np.repeat(np.arange(len(counts)), counts)
    seed = data.draw(st.integers(0, 2**40))
    plan = cycled_plan(person_ids, num_persons, num_images, seed, num_batches)
    assert plan.shape == (num_batches, num_persons * num_images)
    remaining = plan
    for number in itertools.count():
        if not len(remaining):
            break
        whole = epoch_plan(person_ids, num_persons, num_images, derive_seed(seed, number))
        part, remaining = remaining[: len(whole)], remaining[len(whole) :]
        np.testing.assert_array_equal(part, whole[: len(part)])
    longer = cycled_plan(person_ids, num_persons, num_images, seed, num_batches + 5)
    np.testing.assert_array_equal(plan, longer[:num_batches])


# ---- the batches


def test_exemplar_batches_equal_a_naive_loop(
    config: RunConfig, opened: OpenedDomain, replay: Replay
) -> None:
    batches = batches_of(config, LocalGroup(), opened, stage("weak"), 1, replay)
    assert len(batches) > 2
    seed = derive_seed(config.seed, "second", "learn", 1, "replay")
    ids = np.array([record.person_id for record in replay.records])
    plan = cycled_plan(ids, 3, 2, seed, len(batches))
    for number, batch in enumerate(exemplars(batches)):
        positions = batch.indices.numpy()
        np.testing.assert_array_equal(positions, plan[number])
        records = [replay.records[position] for position in positions]
        assert batch.person_ids.tolist() == [record.person_id for record in records]
        assert batch.camera_ids.tolist() == [7] * 6
        raw = replay.images.fetch(positions)
        expected = augment(raw, "weak", image_seeds(seed, number, 6), config.data.transform)
        assert torch.equal(batch.views["weak"], expected)
        assert batch.replay is None
    person_ids = torch.cat([batch.person_ids for batch in exemplars(batches)])
    assert len(person_ids.unique()) > 3, "batches contain different persons"


@pytest.mark.parametrize("views", [("weak", "strong"), ()])
def test_exemplars_do_not_change_the_training_images(
    config: RunConfig, opened: OpenedDomain, replay: Replay, views: tuple[str, ...]
) -> None:
    without = batches_of(config, LocalGroup(), opened, stage(*views), 0)
    with_replay = batches_of(config, LocalGroup(), opened, stage(*views), 0, replay)
    assert_same_batches(without, with_replay)
    assert all(batch.replay is None for batch in without)
    assert all(set(batch.views) == set(views) for batch in exemplars(with_replay))


def test_workers_divide_the_global_batch(
    config: RunConfig, opened: OpenedDomain, replay: Replay
) -> None:
    def batches(rank: int, world_size: int) -> list[Batch]:
        group = Worker(rank, world_size)
        return exemplars(batches_of(config, group, opened, stage("weak"), 0, replay))

    whole, shares = batches(0, 1), [batches(0, 2), batches(1, 2)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert [len(part.indices) for part in parts] == [3, 3]
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        joined = torch.cat([part.views["weak"] for part in parts])
        assert torch.equal(joined, batch.views["weak"])


def test_exemplars_depend_on_seed_domain_stage_and_epoch(
    config: RunConfig, opened: OpenedDomain, replay: Replay
) -> None:
    def sampled(settings: RunConfig = config, epoch: int = 0, **changes: Any) -> list[list[int]]:
        domain = replace(opened.domain, name=changes.get("domain", "second"))
        stage_ = replace(stage(), name=changes.get("stage", "learn"))
        renamed = OpenedDomain(domain, opened.images, 0)
        batches = batches_of(settings, LocalGroup(), renamed, stage_, epoch, replay)
        return [batch.indices.tolist() for batch in exemplars(batches)]

    assert sampled() == sampled()
    others = [
        sampled(config.model_copy(update={"seed": 1})),
        sampled(epoch=1),
        sampled(domain="third"),
        sampled(stage="other"),
    ]
    assert all(other != sampled() for other in others)


# ---- the files


def save_random_image(path: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def benchmark_(tmp_path: Path) -> Benchmark:
    """A domain of ten images of five people; some of them are exemplars."""
    train = tuple(
        Record(save_random_image(tmp_path / f"{index}.jpg", index), index // 2, 0)
        for index in range(10)
    )
    return Benchmark("tiny", (Domain("first", train, EMPTY, EMPTY),), (), {})


OpenStream = Callable[[Benchmark], DomainStream]


@pytest.fixture(params=["local", "ray"])
def open_stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStream]:
    config = DataConfig(evaluation_batch_size=4)
    where = (HEIGHT, WIDTH, tmp_path / "quarantine.jsonl")
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    with contextlib.ExitStack() as exits:

        def start(benchmark: Benchmark) -> DomainStream:
            if request.param == "local":
                stream = LocalStream(benchmark, config, *where)
                exits.callback(stream.close)
                return stream
            from runner.on_ray.image_stream import RayStream, serve_stream

            name = f"replay-test-{next(RUNS)}"
            exits.enter_context(serve_stream(name, benchmark, config, *where))
            return RayStream(name, benchmark, config, HEIGHT, WIDTH)

        yield start


def test_exemplars_are_decoded_in_order(open_stream: OpenStream, benchmark_: Benchmark) -> None:
    train = benchmark_.seen[0].train
    records = [replace(train[index], person_id=40 - index) for index in (7, 1, 3, 2, 9, 0)]
    replay = open_replay(records, ReplayShape(4, 1), open_stream(benchmark_), 2)
    assert (list(replay.records), replay.shape) == (records, ReplayShape(4, 1))
    expected = decode_many([record.image_path for record in records], HEIGHT, WIDTH).pixels
    np.testing.assert_array_equal(replay.images.fetch(np.arange(6)), expected)
    np.testing.assert_array_equal(replay.images.fetch(np.array([5, 2])), expected[[5, 2]])


def test_unreadable_exemplars_are_an_error(
    open_stream: OpenStream, benchmark_: Benchmark, tmp_path: Path
) -> None:
    records = benchmark_.seen[0].train[:6]
    stream = open_stream(benchmark_)
    Path(records[2].image_path).write_text("no image any more")
    Path(records[4].image_path).unlink()
    message = r"2 of 6 exemplars .*first is .*2\.jpg .*quarantine.*restore the files"
    with pytest.raises(OSError, match=message):
        open_replay(records, ReplayShape(2, 2), stream, 1)
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").open()]
    assert [(Path(entry["path"]).name, entry["domain"], entry["split"]) for entry in listed] == [
        ("2.jpg", "first", "train"),
        ("4.jpg", "first", "train"),
    ]
    with pytest.raises(OSError, match="1 of 1 exemplars"):
        open_replay([records[4]], ReplayShape(2, 2), stream, 1)


def test_num_persons_is_capped_at_the_available_persons(
    benchmark_: Benchmark, tmp_path: Path
) -> None:
    stream = LocalStream(benchmark_, DataConfig(), HEIGHT, WIDTH, tmp_path / "quarantine.jsonl")
    records = benchmark_.seen[0].train[:6]
    assert open_replay(records, ReplayShape(64, 2), stream, 1).shape == ReplayShape(3, 2)
    assert open_replay(records, ReplayShape(2, 3), stream, 1).shape == ReplayShape(2, 3)
    with pytest.raises(ValueError, match=r"3 persons x 1 images = 3 .*among 2 workers"):
        open_replay(records, ReplayShape(64, 1), stream, 2)
    stream.close()


def test_an_indivisible_batch_is_an_error() -> None:
    check_replay_shape(ReplayShape(3, 2), 2)
    with pytest.raises(ValueError, match=r"3 persons x 2 images = 6 .*among 4 workers"):
        check_replay_shape(ReplayShape(3, 2), 4)


# ---- runs


def test_batches_of_later_domains_include_exemplars(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[str, PixelBatch]]()
    original = loop.training_batches

    def record(
        config: RunConfig, group: Any, opened: OpenedDomain, *rest: Any
    ) -> Iterator[PixelBatch]:
        for batch in original(config, group, opened, *rest):
            seen.append((opened.domain.name, batch))
            yield batch

    monkeypatch.setattr(loop, "training_batches", record)
    exemplars_ = ("learner.exemplars.num_persons=3", "learner.exemplars.with_replacement=false")
    config = tiny_config(
        tmp_path, "krkc", *exemplars_, "learner.exemplars.images_per_person=1",
        "learner.replay.persons_per_batch=2", "learner.replay.images_per_person=2",
    )  # fmt: skip
    result = run_experiment(config)
    assert {name for name, _ in seen} == {"plaza", "station"}
    for name, batch in seen:
        if name == "plaza":
            assert batch.replay is None
            continue
        assert batch.replay is not None
        assert batch.replay.pixels["weak"].shape == (4, 3, HEIGHT, WIDTH)
        assert len(batch.replay.person_ids.unique()) == 2
        # Two of ten identities are for validation, so the first domain has eight for training.
        assert batch.replay.person_ids.max() < 8
        assert batch.replay.indices.max() < 3
    assert result.results["stored_bytes_per_domain"] == 3 * HEIGHT * WIDTH * 3
    lines = (result.folder / "events.jsonl").read_text().splitlines()
    logged = [event["message"] for event in map(json.loads, lines) if event["event"] == "log"]
    (message,) = [message for message in logged if "exemplars" in message]
    assert "2 persons x 2 images" in message
    assert "from 3 exemplars" in message


@pytest.mark.slow
def test_replay_on_ray_equals_replay_in_process(
    ray_session: None,
    tiny_config: MakeConfig,
    tmp_path: Path,
    numbers_of: Callable[[Any], dict[str, Any]],
) -> None:
    results = {}
    for num_workers in (0, 1):
        workers = f"cluster.num_workers={num_workers}"
        result = run_experiment(tiny_config(tmp_path / str(num_workers), "krkc", workers))
        tensors = result.folder / "checkpoints/after-02-station.safetensors"
        results[num_workers] = numbers_of(result.results), tensors.read_bytes()
    assert results[0] == results[1]
