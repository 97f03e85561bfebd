"""Training batches of an epoch: sampling, decoding, augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.learner import ReplayShape, Stage
from runner.config.run_config import RunConfig
from runner.streaming.image_stream import BlockImages, DomainStream, ImageSource, OpenedDomain
from runner.training.collectives import WorkerGroup
from tasks.loading.sampling import cycled_plan, derive_seed, epoch_plan, image_seeds
from tasks.loading.transforms import TransformConfig, augment
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
    replay: Replay | None = None,
) -> Iterator[Batch]:
    """Yields this worker's share of the global batches of an epoch, augmented, on the CPU.

    The global batches depend only on (seed, domain, stage, epoch), not on the number of workers.
    Exemplars use a separate seed, so they do not change the other images of a batch.
    """
    data = config.data
    keys = (opened.domain.name, stage.name, epoch)
    seed = derive_seed(config.seed, *keys)
    person_ids = opened.domain.person_ids
    plan = epoch_plan(person_ids, data.persons_per_batch, data.images_per_person, seed)
    train = opened.domain.train
    batches = _planned(plan, seed, train, opened.images, group, stage.views, data.transform)
    if replay is None:
        yield from batches
        return
    seed = derive_seed(config.seed, *keys, "replay")
    person_ids = np.array([record.person_id for record in replay.records])
    plan = cycled_plan(person_ids, *replay.shape, seed, len(plan))
    exemplars = _planned(
        plan, seed, replay.records, replay.images, group, stage.views, data.transform
    )
    for batch, replayed in zip(batches, exemplars, strict=True):
        yield replace(batch, replay=replayed)


def _planned(
    plan: np.ndarray,
    seed: int,
    records: Sequence[Record],
    images: ImageSource,
    group: WorkerGroup,
    views: Sequence[str],
    transform: TransformConfig,
) -> Iterator[Batch]:
    """Yields this worker's columns of each batch of a plan, augmented."""
    person_ids = np.array([record.person_id for record in records], dtype=np.int64)
    camera_ids = np.array([record.camera_id for record in records])
    size = plan.shape[1] // group.world_size
    share = slice(group.rank * size, (group.rank + 1) * size)
    local = plan[:, share]
    pixels = images.batches(local) if views else None
    for number, indices in enumerate(local):
        augmented: dict[str, Tensor] = {}
        if pixels is not None:
            raw = next(pixels)
            seeds = image_seeds(seed, number, plan.shape[1])[share]
            augmented = {name: augment(raw, name, seeds, transform) for name in views}
        yield Batch(
            torch.from_numpy(indices),
            torch.from_numpy(person_ids[indices]),
            torch.from_numpy(camera_ids[indices]),
            augmented,
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch to `device`; returns it unchanged if the device is the CPU."""
    if device.type == "cpu":
        return batch
    return Batch(
        batch.indices.to(device),
        batch.person_ids.to(device),
        batch.camera_ids.to(device),
        {name: view.to(device, non_blocking=True) for name, view in batch.views.items()},
        to_device(batch.replay, device) if batch.replay is not None else None,
    )
