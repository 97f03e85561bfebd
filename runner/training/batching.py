"""An epoch's batches: which images, in which order, under which augmentation."""

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
    """Exemplars of earlier domains, decoded, and the shape of the batches drawn from them.

    Attributes:
        records: what the learner asked for; person ids count over all learned domains.
        images: their pixels, in memory.
        shape: of a global batch.
    """

    records: Sequence[Record]
    images: ImageSource
    shape: ReplayShape


def open_replay(
    records: Sequence[Record], shape: ReplayShape, stream: DomainStream, world_size: int
) -> Replay:
    """Decodes a learner's exemplars, all of them on every worker.

    Args:
        records: the exemplars, at least one.
        shape: of a global batch; where they show fewer persons, all of these are in each batch.
        stream: decodes, and lists what is unreadable.
        world_size: workers that share each batch.

    Raises:
        OSError: an exemplar can no longer be read.
        ValueError: the batch cannot be split over the workers.
    """
    num_persons = len({record.person_id for record in records})
    shape = shape._replace(num_persons=min(shape.num_persons, num_persons))
    check_replay_shape(shape, world_size)
    chunks = list(stream.test_images(records))
    found = {int(position) for positions, _ in chunks for position in positions}
    missing = [record for position, record in enumerate(records) if position not in found]
    if missing:
        raise OSError(
            f"{len(missing)} of {len(records)} exemplars of earlier domains cannot be read; the "
            f"first is {missing[0].image_path} (reasons in quarantine.jsonl). They could be read "
            "when their domain was learned: restore the files, then give the same command again"
        )
    images = BlockImages([pixels for _, pixels in chunks], np.arange(len(records)))
    return Replay(records, images, shape)


def check_replay_shape(shape: ReplayShape, world_size: int) -> None:
    """Refuses a batch of exemplars that cannot be split over the workers.

    Raises:
        ValueError: says what would do.
    """
    num_images = shape.num_persons * shape.images_per_person
    if num_images % world_size:
        raise ValueError(
            f"replay: a batch of {shape.num_persons} persons x {shape.images_per_person} images = "
            f"{num_images} exemplars cannot be split over {world_size} workers; choose numbers "
            "that cluster.num_workers divides, and no more persons than there are exemplars of"
        )


def training_batches(
    config: RunConfig,
    group: WorkerGroup,
    opened: OpenedDomain,
    stage: Stage,
    epoch: int,
    replay: Replay | None = None,
) -> Iterator[Batch]:
    """This worker's share of an epoch's global batches, augmented; on the CPU.

    A pure function of (seed, domain, stage, epoch), whatever the number of workers. Exemplars are
    drawn from a seed of their own: they change nothing of what a batch holds beside them.
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
    for batch, beside in zip(batches, exemplars, strict=True):
        yield replace(batch, replay=beside)


def _planned(
    plan: np.ndarray,
    seed: int,
    records: Sequence[Record],
    images: ImageSource,
    group: WorkerGroup,
    views: Sequence[str],
    transform: TransformConfig,
) -> Iterator[Batch]:
    """This worker's columns of each batch of a plan, augmented."""
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
    """The batch on a device; itself on the CPU."""
    if device.type == "cpu":
        return batch
    return Batch(
        batch.indices.to(device),
        batch.person_ids.to(device),
        batch.camera_ids.to(device),
        {name: view.to(device, non_blocking=True) for name, view in batch.views.items()},
        to_device(batch.replay, device) if batch.replay is not None else None,
    )
