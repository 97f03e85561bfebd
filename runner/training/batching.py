"""Training batches of an epoch: sampling, decoding, augmentation, transfer to the device.

Images travel as uint8 and are normalised on the device where the learner is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from models.learner import ReplayShape, Stage
from runner.config.run_config import RunConfig
from runner.config.sections import DataConfig
from runner.streaming.image_stream import BlockImages, DomainStream, ImageSource, OpenedDomain
from runner.training.collectives import WorkerGroup
from tasks.loading.draws import Draws
from tasks.loading.kernels import DeviceKernels, HostKernels, send
from tasks.loading.sampling import cycled_plan, derive_seed, epoch_plan, image_seeds
from tasks.loading.transforms import TransformConfig, draw_view, normalise_pixels, view_pixels
from tasks.schema import Batch, Record


@dataclass(frozen=True)
class Replay:
    """Decoded exemplars of earlier domains and the shape of the batches sampled from them.

    Attributes:
        records: exemplars of the learner; person ids are unique over all learned domains.
        images: pixels of the exemplars, in memory.
        shape: shape of a global batch.
    """

    records: Sequence[Record]
    images: ImageSource
    shape: ReplayShape


@dataclass(frozen=True)
class PixelBatch:
    """Part of a training batch in host memory, in pinned memory for a CUDA device.

    Attributes:
        indices: see `Batch`.
        person_ids: see `Batch`.
        camera_ids: see `Batch`.
        draws: random decisions of each view.
        images: [B, H, W, 3] uint8 before augmentation; None if it is done, or without views.
        pixels: [B, 3, H, W] uint8 of each view before erasing and normalisation; empty if the
            views are computed on the device.
        replay: see `Batch`.
    """

    indices: Tensor
    person_ids: Tensor
    camera_ids: Tensor
    draws: Mapping[str, Draws]
    images: Tensor | None = None
    pixels: Mapping[str, Tensor] = field(default_factory=dict)
    replay: PixelBatch | None = None


def open_replay(
    records: Sequence[Record], shape: ReplayShape, stream: DomainStream, world_size: int
) -> Replay:
    """Decodes all exemplars of a learner on every worker.

    Args:
        records: the exemplars, at least one.
        shape: shape of a global batch; the number of persons is capped at the persons in `records`.
        stream: decodes the images and lists unreadable ones.
        world_size: number of workers that share each batch.

    Raises:
        OSError: an exemplar cannot be read any more.
        ValueError: the batch size is not divisible by `world_size`.
    """
    num_persons = len({record.person_id for record in records})
    shape = shape._replace(num_persons=min(shape.num_persons, num_persons))
    check_replay_shape(shape, world_size)
    chunks = list(stream.test_images(records))
    readable = {int(position) for positions, _ in chunks for position in positions}
    unreadable = [record for position, record in enumerate(records) if position not in readable]
    if unreadable:
        raise OSError(
            f"{len(unreadable)} of {len(records)} exemplars of earlier domains cannot be read; the "
            f"first is {unreadable[0].image_path} (reasons in quarantine.jsonl). They were "
            "readable when their domain was learned: restore the files and run the same command"
        )
    images = BlockImages([pixels for _, pixels in chunks], np.arange(len(records)))
    return Replay(records, images, shape)


def check_replay_shape(shape: ReplayShape, world_size: int) -> None:
    """Checks that a batch of exemplars can be divided among the workers.

    Raises:
        ValueError: the batch size is not divisible by `world_size`.
    """
    num_images = shape.num_persons * shape.images_per_person
    if num_images % world_size:
        raise ValueError(
            f"replay: a batch of {shape.num_persons} persons x {shape.images_per_person} images = "
            f"{num_images} exemplars cannot be divided among {world_size} workers; choose a batch "
            "size divisible by cluster.num_workers, and no more persons than there are exemplars of"
        )


def training_batches(
    config: RunConfig,
    group: WorkerGroup,
    opened: OpenedDomain,
    stage: Stage,
    epoch: int,
    replay: Replay | None,
    device: torch.device,
) -> Iterator[PixelBatch]:
    """Yields this worker's share of the global batches of an epoch, for `to_device`.

    The global batches depend only on (seed, domain, stage, epoch), not on the number of workers.
    Exemplars use a separate seed, so they do not change the other images of a batch.
    """
    data = config.data
    keys = (opened.domain.name, stage.name, epoch)
    seed = derive_seed(config.seed, *keys)
    person_ids = opened.domain.person_ids
    plan = epoch_plan(person_ids, data.persons_per_batch, data.images_per_person, seed)
    with ThreadPoolExecutor(data.augment_threads, "augment") as pool:
        views = _Views(stage.views, data, device, pool)
        batches = _planned(plan, seed, opened.domain.train, opened.images, group, views)
        if replay is None:
            yield from batches
            return
        seed = derive_seed(config.seed, *keys, "replay")
        person_ids = np.array([record.person_id for record in replay.records])
        plan = cycled_plan(person_ids, *replay.shape, seed, len(plan))
        exemplars = _planned(plan, seed, replay.records, replay.images, group, views)
        for batch, replayed in zip(batches, exemplars, strict=True):
            yield replace(batch, replay=replayed)


@dataclass(frozen=True)
class _Views:
    """Computes the views of a batch, or leaves that to the device."""

    names: Sequence[str]
    data: DataConfig
    device: torch.device
    pool: ThreadPoolExecutor

    def draw(self, seeds: np.ndarray, images: np.ndarray) -> dict[str, Draws]:
        """Draws the decisions of each view of images [B, H, W, 3]."""
        size = (images.shape[1], images.shape[2])
        return {name: draw_view(name, seeds, size, self.data.transform) for name in self.names}

    def pixels(self, images: Tensor, draws: Mapping[str, Draws]) -> dict[str, Tensor]:
        """Computes the views of images [B, H, W, 3] on the threads: uint8 [B, 3, H, W] each."""
        num_images, height, width, _ = images.shape
        size, pinned = (num_images, 3, height, width), self.device.type == "cuda"
        views = {name: torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for name in draws}
        transform, kernels = self.data.transform, HostKernels()

        def compute(name: str, share: slice) -> None:
            part = draws[name].part(share)
            views[name][share] = view_pixels(images[share], part, transform, kernels)

        bounds = np.linspace(0, num_images, self.data.augment_threads + 1).astype(int).tolist()
        shares = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
        tasks = [self.pool.submit(compute, name, share) for name in draws for share in shares]
        for task in tasks:
            task.result()
        return views

    @property
    def on_device(self) -> bool:
        """Whether views are computed on the device."""
        on = self.data.augment_on
        return on == "device" or (on == "auto" and self.device.type == "cuda")


def _planned(
    plan: np.ndarray,
    seed: int,
    records: Sequence[Record],
    images: ImageSource,
    group: WorkerGroup,
    views: _Views,
) -> Iterator[PixelBatch]:
    """Yields this worker's columns of each batch of a plan."""
    person_ids = np.array([record.person_id for record in records], dtype=np.int64)
    camera_ids = np.array([record.camera_id for record in records])
    size = plan.shape[1] // group.world_size
    share = slice(group.rank * size, (group.rank + 1) * size)
    local = plan[:, share]
    decoded = images.batches(local) if views.names else None

    def host(values: np.ndarray | Tensor) -> Tensor:
        tensor = torch.as_tensor(values)
        return tensor.pin_memory() if views.device.type == "cuda" else tensor

    for number, indices in enumerate(local):
        batch = PixelBatch(
            host(indices), host(person_ids[indices]), host(camera_ids[indices]), draws={}
        )
        if decoded is not None:
            raw = next(decoded)
            draws = views.draw(image_seeds(seed, number, plan.shape[1])[share], raw)
            if views.on_device:
                batch = replace(batch, draws=draws, images=host(raw))
            else:
                pixels = views.pixels(torch.from_numpy(raw), draws)
                batch = replace(batch, draws=draws, pixels=pixels)
        yield batch


def to_device(batch: PixelBatch, device: torch.device, transform: TransformConfig) -> Batch:
    """Copies a batch to `device`, computes missing views there, and normalises all views.

    The host does not wait for a CUDA device.
    """
    images = None if batch.images is None else send(batch.images, device)
    views: dict[str, Tensor] = {}
    for name, draws in batch.draws.items():
        if images is None:
            pixels = send(batch.pixels[name], device)
        else:
            pixels = view_pixels(images, draws, transform, DeviceKernels())
        erased = send(torch.from_numpy(draws.erased), device)
        views[name] = normalise_pixels(pixels, transform, erased)
    return Batch(
        send(batch.indices, device),
        send(batch.person_ids, device),
        send(batch.camera_ids, device),
        views,
        to_device(batch.replay, device, transform) if batch.replay is not None else None,
    )
