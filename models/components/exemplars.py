"""Exemplars: stored images of learned domains for replay."""

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
    """Selection of the exemplars of a domain."""

    num_persons: int = Field(default=250, ge=1, description="identities sampled per domain")
    images_per_person: int = Field(default=2, ge=1, description="images stored per identity")
    with_replacement: bool = Field(
        default=True,
        description="sample identities with replacement; duplicates are stored once, so there are "
        "fewer identities; false: exactly num_persons distinct identities, if available",
    )


class Exemplars:
    """Exemplars of all learned domains: image paths, person and camera ids, no pixels.

    Identities are sampled at the start of a domain. At its end, the images of each identity that
    are farthest from the identity's centre are selected. Until then, all images of the sampled
    identities are candidates.

    Args:
        config: numbers of identities and images.

    Source: KRKC. The authors' code samples at the end of a domain, which is equivalent.
    """

    def __init__(self, config: ExemplarsConfig) -> None:
        self._config = config
        self._candidates: list[Record] = []
        self._positions: list[int] = []
        self._num_images = 0
        self.num_domains = 0
        self.records: tuple[Record, ...] = ()

    def begin_domain(self, domain: Domain, offset: int, generator: torch.Generator) -> None:
        """Sample the identities of a domain.

        Args:
            domain: the domain without unreadable images; person ids start at 0.
            offset: number of identities of all earlier domains, added to stored person ids.
            generator: random generator; in the same state on every worker.
        """
        selected = sample_persons(domain.num_persons, self._config, generator)
        self._num_images = len(domain.train)
        self._positions = [
            position for position, record in enumerate(domain.train) if record.person_id in selected
        ]
        self._candidates = [
            Record(record.image_path, record.person_id + offset, record.camera_id)
            for record in (domain.train[position] for position in self._positions)
        ]

    def end_domain(self, embeddings: Tensor) -> None:
        """Select the exemplars of the current domain.

        Args:
            embeddings: [N, D] of all training images, in their order.

        Raises:
            ValueError: the number of images changed since the start of the domain.
        """
        if len(embeddings) != self._num_images:
            raise ValueError(
                f"embeddings: expected {self._num_images} training images as at the start of the "
                f"domain, got {len(embeddings)}. The data folder may have changed during the run; "
                "restore it, or restart with --fresh"
            )
        # Double precision on the CPU: GPU sums may differ in the last bit between workers, and
        # all workers must select the same images.
        candidate_embeddings = embeddings.detach().cpu().double()[self._positions]
        person_ids = torch.tensor([record.person_id for record in self._candidates])
        selected = farthest_images(candidate_embeddings, person_ids, self._config.images_per_person)
        self.records += tuple(self._candidates[index] for index in selected.tolist())
        self.num_domains += 1
        self._candidates, self._positions, self._num_images = [], [], 0

    def facts(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable values."""
        return {
            "records": _rows(self.records),
            "num_domains": self.num_domains,
            "candidates": _rows(self._candidates),
            "positions": list(self._positions),
            "num_images": self._num_images,
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore the state returned by `facts`."""
        self.records = tuple(Record(*row) for row in facts["records"])
        self.num_domains = int(facts["num_domains"])
        self._candidates = [Record(*row) for row in facts["candidates"]]
        self._positions = [int(position) for position in facts["positions"]]
        self._num_images = int(facts["num_images"])


def sample_persons(
    num_persons: int, config: ExemplarsConfig, generator: torch.Generator
) -> frozenset[int]:
    """Sample distinct person ids from 0..num_persons-1."""
    if config.with_replacement:
        sampled = torch.randint(num_persons, (config.num_persons,), generator=generator)
    else:
        sampled = torch.randperm(num_persons, generator=generator)[: config.num_persons]
    return frozenset(sampled.tolist())


def farthest_images(embeddings: Tensor, person_ids: Tensor, num_images: int) -> Tensor:
    """Select the images of each person that are least similar to the person's centre.

    The centre is the L2-normalised mean over the person's images; similarity is the cosine. Ties
    are resolved in favour of the earlier image.

    Args:
        embeddings: [N, D].
        person_ids: [N] long.
        num_images: images per person; all if a person has fewer.

    Returns:
        [M] long, row indices sorted by person id, then by increasing similarity.
    """
    persons, person_rows = person_ids.unique(return_inverse=True)
    centres = identity_centres(embeddings, person_rows, len(persons))
    similarity = (functional.normalize(embeddings, dim=1) * centres[person_rows]).sum(1)
    order = similarity.argsort(stable=True)
    order = order[person_rows[order].argsort(stable=True)]
    counts = person_rows.bincount(minlength=len(persons))
    first = counts.cumsum(0) - counts
    ranks = torch.arange(len(order)) - first[person_rows[order]]
    return order[ranks < num_images]


def _rows(records: Sequence[Record]) -> list[list[Any]]:
    return [[record.image_path, record.person_id, record.camera_id] for record in records]
