"""An epoch's batches: which images, in which order, under which augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.learner import Stage
from runner.collectives import WorkerGroup
from runner.config import RunConfig
from runner.stream import OpenedDomain
from tasks.sampling import derive_seed, epoch_plan, image_seeds
from tasks.schema import Batch
from tasks.transforms import augment


def training_batches(
    config: RunConfig, group: WorkerGroup, opened: OpenedDomain, stage: Stage, epoch: int
) -> Iterator[Batch]:
    """This worker's share of an epoch's global batches, augmented; on the CPU.

    A pure function of (seed, domain, stage, epoch), whatever the number of workers.
    """
    data = config.data
    seed = derive_seed(config.seed, opened.domain.name, stage.name, epoch)
    person_ids = opened.domain.person_ids
    camera_ids = np.array([record.camera_id for record in opened.domain.train])
    plan = epoch_plan(person_ids, data.persons_per_batch, data.images_per_person, seed)
    size = plan.shape[1] // group.world_size
    share = slice(group.rank * size, (group.rank + 1) * size)
    local = plan[:, share]
    pixels = opened.images.batches(local) if stage.views else None
    for number, indices in enumerate(local):
        views: dict[str, Tensor] = {}
        if pixels is not None:
            raw = next(pixels)
            seeds = image_seeds(seed, number, plan.shape[1])[share]
            views = {name: augment(raw, name, seeds, data.transform) for name in stage.views}
        yield Batch(
            torch.from_numpy(indices),
            torch.from_numpy(person_ids[indices]),
            torch.from_numpy(camera_ids[indices]),
            views,
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
    )
