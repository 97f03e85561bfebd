"""Training batches: uint8 in host memory, the same views wherever they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.learner import OptimizerConfig, ReplayShape, Stage
from runner.config.run_config import RunConfig
from runner.streaming.image_stream import BlockImages, OpenedDomain
from runner.training.batching import PixelBatch, Replay, to_device, training_batches
from runner.training.collectives import LocalGroup
from tasks.loading.sampling import derive_seed, epoch_plan, image_seeds
from tasks.loading.transforms import augment
from tasks.schema import Batch, Domain, Record, Split

MakeConfig = Callable[..., RunConfig]

CPU = torch.device("cpu")
EMPTY = Split((), ())
VIEWS = ("weak", "strong", "test")


def images_of(num_images: int, seed: int) -> BlockImages:
    shape = (num_images, 64, 32, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return BlockImages([pixels], np.arange(num_images))


OPENED = OpenedDomain(
    Domain(
        "first",
        tuple(Record(f"{index}.jpg", index // 4, index % 3) for index in range(24)),
        EMPTY,
        EMPTY,
    ),
    images_of(24, 1),
    0,
)
REPLAY = Replay(
    [Record(f"old-{index}.jpg", index // 2, 7) for index in range(8)],
    images_of(8, 2),
    ReplayShape(2, 2),
)


def pixel_batches(config: RunConfig, device: torch.device = CPU) -> list[PixelBatch]:
    stage = Stage("learn", 2, VIEWS, ("*",), OptimizerConfig(lr=1.0))
    return list(training_batches(config, LocalGroup(), OPENED, stage, 1, REPLAY, device))


def on(device: torch.device, config: RunConfig, batches: Sequence[PixelBatch]) -> list[Batch]:
    return [to_device(batch, device, config.data.transform) for batch in batches]


def assert_same(first: Batch, second: Batch) -> None:
    for name in ("indices", "person_ids", "camera_ids"):
        assert torch.equal(getattr(first, name).cpu(), getattr(second, name).cpu())
    assert set(first.views) == set(second.views) == set(VIEWS)
    for view in VIEWS:
        assert torch.equal(first.views[view].cpu(), second.views[view].cpu()), view
    assert (first.replay is None) == (second.replay is None)
    if first.replay is not None and second.replay is not None:
        assert_same(first.replay, second.replay)


@pytest.mark.parametrize("place", ["cpu", "device", "auto"])
def test_batches_equal_a_naive_loop(tiny_config: MakeConfig, tmp_path: Path, place: str) -> None:
    config = tiny_config(tmp_path, "finetune", f"data.augment_on={place}")
    data = config.data
    seed = derive_seed(config.seed, "first", "learn", 1)
    plan = epoch_plan(
        OPENED.domain.person_ids, data.persons_per_batch, data.images_per_person, seed
    )
    batches = pixel_batches(config)
    assert len(batches) == len(plan)
    for number, (pixels, batch) in enumerate(zip(batches, on(CPU, config, batches), strict=True)):
        assert (pixels.images is None) == (place != "device")
        sent = [*pixels.pixels.values(), *([] if pixels.images is None else [pixels.images])]
        assert all(tensor.dtype == torch.uint8 for tensor in sent)
        assert len(sent) == (1 if place == "device" else 3)
        raw = OPENED.images.fetch(plan[number])
        seeds = image_seeds(seed, number, plan.shape[1])
        for view in VIEWS:
            expected = augment(raw, view, seeds, data.transform)
            assert torch.equal(batch.views[view], expected)


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_the_number_of_threads_does_not_change_a_batch(
    tiny_config: MakeConfig, tmp_path: Path, threads: int
) -> None:
    one = tiny_config(tmp_path, "finetune")
    more = tiny_config(tmp_path, "finetune", f"data.augment_threads={threads}")
    pairs = zip(on(CPU, one, pixel_batches(one)), on(CPU, more, pixel_batches(more)), strict=True)
    for first, second in pairs:
        assert_same(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cpu", "device", "auto"])
def test_batches_on_a_gpu_equal_those_on_the_cpu(
    tiny_config: MakeConfig, tmp_path: Path, place: str
) -> None:
    config = tiny_config(tmp_path, "finetune", f"data.augment_on={place}")
    device = torch.device("cuda")
    sent = pixel_batches(config, device)
    for batch in sent:
        tensors = [batch.indices, *batch.pixels.values()]
        assert all(tensor.is_pinned() for tensor in tensors)
        assert (batch.images is not None) == (place != "cpu")
        assert batch.images is None or batch.images.is_pinned()
    for first, second in zip(
        on(device, config, sent), on(CPU, config, pixel_batches(config)), strict=True
    ):
        assert first.views["weak"].device.type == "cuda"
        assert_same(first, second)
