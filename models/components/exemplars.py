"""Exemplars: the images of learned people that are kept to be seen again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.components.prototypes import identity_centres
from tasks.schema import Domain, FrozenConfig, Record


class ExemplarsConfig(FrozenConfig):
    """How many images of a domain are kept, and whose."""

    num_persons: int = Field(default=250, ge=1, description="people drawn from each domain")
    images_per_person: int = Field(default=2, ge=1, description="images kept of each of them")
    with_replacement: bool = Field(
        default=True,
        description="draw with replacement: who is drawn twice is kept once, so there are fewer "
        "people; false = as many different people as were asked for",
    )


class Exemplars:
    """What is kept of every learned domain: paths, people and cameras, no pixels.

    The people of a domain are drawn as it begins. As it ends, the images of each that lie farthest
    from the person's centre are kept. In between, all images of the drawn people are candidates.

    Args:
        config: how many.

    Source: KRKC. Its authors' code draws at the end, which is the same draw.
    """

    def __init__(self, config: ExemplarsConfig) -> None:
        self._config = config
        self._candidates: list[Record] = []
        self._positions: list[int] = []
        self._num_images = 0
        self.num_domains = 0
        self.records: tuple[Record, ...] = ()

    def begin_domain(self, domain: Domain, offset: int, generator: torch.Generator) -> None:
        """Draws the domain's people.

        Args:
            domain: without its unreadable images, person ids from 0.
            offset: people of all earlier domains, added to the ids of what is kept.
            generator: of the draw; equal on every worker.
        """
        drawn = draw_persons(domain.num_persons, self._config, generator)
        self._num_images = len(domain.train)
        self._positions = [
            position for position, record in enumerate(domain.train) if record.person_id in drawn
        ]
        self._candidates = [
            Record(record.image_path, record.person_id + offset, record.camera_id)
            for record in (domain.train[position] for position in self._positions)
        ]

    def end_domain(self, embeddings: Tensor) -> None:
        """Chooses among the images of the domain begun last.

        Args:
            embeddings: [N, D] of all its training images, in their order.

        Raises:
            ValueError: these are not the images that the domain began with.
        """
        if len(embeddings) != self._num_images:
            raise ValueError(
                f"the domain began with {self._num_images} training images and has "
                f"{len(embeddings)} now. Was the data folder changed during the run? Restore it, "
                "or begin again with --fresh"
            )
        # On the CPU in double precision: sums on a GPU differ in their last bit between workers,
        # which must all choose the same images.
        of_candidates = embeddings.detach().cpu().double()[self._positions]
        person_ids = torch.tensor([record.person_id for record in self._candidates])
        chosen = farthest_images(of_candidates, person_ids, self._config.images_per_person)
        self.records += tuple(self._candidates[index] for index in chosen.tolist())
        self.num_domains += 1
        self._candidates, self._positions, self._num_images = [], [], 0

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "records": _rows(self.records),
            "num_domains": self.num_domains,
            "candidates": _rows(self._candidates),
            "positions": list(self._positions),
            "num_images": self._num_images,
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Takes over `facts`."""
        self.records = tuple(Record(*row) for row in facts["records"])
        self.num_domains = int(facts["num_domains"])
        self._candidates = [Record(*row) for row in facts["candidates"]]
        self._positions = [int(position) for position in facts["positions"]]
        self._num_images = int(facts["num_images"])


def draw_persons(
    num_persons: int, config: ExemplarsConfig, generator: torch.Generator
) -> frozenset[int]:
    """The people kept of a domain of `num_persons`: different ids from 0."""
    if config.with_replacement:
        drawn = torch.randint(num_persons, (config.num_persons,), generator=generator)
    else:
        drawn = torch.randperm(num_persons, generator=generator)[: config.num_persons]
    return frozenset(drawn.tolist())


def farthest_images(embeddings: Tensor, person_ids: Tensor, num_images: int) -> Tensor:
    """Positions of each person's images that are least like the person's centre.

    The centre is the L2-normalised mean of all their images; likeness is the cosine. Ties go to
    the earlier image.

    Args:
        embeddings: [N, D].
        person_ids: [N] long.
        num_images: images of each person, all where there are no more.

    Returns:
        [M] long, by person id, the farthest image of each first.
    """
    persons, owners = person_ids.unique(return_inverse=True)
    centres = identity_centres(embeddings, owners, len(persons))
    likeness = (functional.normalize(embeddings, dim=1) * centres[owners]).sum(1)
    order = likeness.argsort(stable=True)
    order = order[owners[order].argsort(stable=True)]
    counts = owners.bincount(minlength=len(persons))
    first = counts.cumsum(0) - counts
    ranks = torch.arange(len(order)) - first[owners[order]]
    return order[ranks < num_images]


def _rows(records: Sequence[Record]) -> list[list[Any]]:
    return [[record.image_path, record.person_id, record.camera_id] for record in records]
