"""Core data types shared by all packages: records, domains, benchmarks, batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

Course = Literal["sequential", "joint", "none"]
"""How a method trains on the seen domains: one after another, jointly, or not at all."""


class FrozenConfig(BaseModel):
    """Base class of every configuration section: immutable, rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Record:
    """One image on disk and its annotations.

    Attributes:
        image_path: path of the image file.
        person_id: contiguous (0 to num_persons - 1) in training lists, the data set's original
            id in validation and test lists.
        camera_id: camera that took the image.
        captions: descriptions of the whole person; empty if the data set has none.
        parts: K part descriptions (head, upper, lower, foot); empty if the data set has none.
        identity: machine-written text about permanent traits of the person; "" if there is none.
        clothing: machine-written text about the clothes; "" if there is none.
    """

    image_path: str
    person_id: int
    camera_id: int
    captions: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    identity: str = ""
    clothing: str = ""

    @property
    def caption(self) -> str:
        """First caption, or "" if there is none."""
        return self.captions[0] if self.captions else ""


@dataclass(frozen=True, slots=True)
class Split:
    """Queries and gallery of one retrieval evaluation.

    The gallery is ranked for each query.

    Attributes:
        query: query records.
        gallery: gallery records.
        query_by: "image" uses the image of a query record (Market-1501 protocol). "text" uses its
            single caption and applies no camera rule (text-to-image protocol).
    """

    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    query_by: Literal["image", "text"] = "image"


@dataclass(frozen=True, slots=True)
class RawDomain:
    """A data set as returned by its reader: original person ids, no validation split made yet.

    Attributes:
        name: name of the reader.
        train: training records; empty for test-only data sets.
        test: test split.
        validation: validation split defined by the data set, or None.
        description_file: file with part descriptions of the images, or None.
        dual_file: file with identity and clothing descriptions of the images, or None.
        folder: folder to which image paths in the protocol lock are relative.
        variant: variant of the data set that was read.
        facts: JSON values that identify what was read (version, split, source), for the lock.
    """

    name: str
    train: tuple[Record, ...]
    test: Split
    validation: Split | None = None
    description_file: Path | None = None
    dual_file: Path | None = None
    folder: Path = Path()
    variant: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Domain:
    """One data set in the lifelong order; train, validation and test identities are disjoint."""

    name: str
    train: tuple[Record, ...]
    validation: Split
    test: Split

    @property
    def num_persons(self) -> int:
        """Number of training identities; `person_id` ranges from 0 to num_persons - 1."""
        return 1 + max((record.person_id for record in self.train), default=-1)

    @property
    def person_ids(self) -> npt.NDArray[np.int64]:
        """[N] person ids of the training images."""
        return np.array([record.person_id for record in self.train], dtype=np.int64)

    def without(self, indices: Collection[int]) -> Domain:
        """Return the domain without the training records at `indices`, ids contiguous again."""
        if not indices:
            return self
        removed = set(indices)
        kept = [record for index, record in enumerate(self.train) if index not in removed]
        ids = {old: new for new, old in enumerate(sorted({record.person_id for record in kept}))}
        train = tuple(replace(record, person_id=ids[record.person_id]) for record in kept)
        return replace(self, train=train)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Seen domains in lifelong order, unseen domains and the protocol lock.

    Attributes:
        name: name of the benchmark.
        seen: domains of the lifelong order.
        unseen: domains that are only tested.
        lock: protocol lock, see `tasks.protocol.lock`.
        trained: domains to train on one after another if they differ from `seen`: one joint
            domain (joint training) or none.
        contents: sizes and hashes of the files, see `tasks.protocol.contents`.
    """

    name: str
    seen: tuple[Domain, ...]
    unseen: tuple[Domain, ...]
    lock: Mapping[str, Any]
    trained: tuple[Domain, ...] | None = None
    contents: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict[str, Mapping[str, Mapping[str, Any]]], repr=False, compare=False
    )

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Seen domains, then unseen domains: the columns of every result matrix."""
        return self.seen + self.unseen

    @property
    def steps(self) -> tuple[Domain, ...]:
        """Domains to train on, one after another."""
        return self.seen if self.trained is None else self.trained

    def for_course(self, course: Course) -> Benchmark:
        """Return the benchmark with the training steps of a method with this course."""
        match course:
            case "sequential":
                return replace(self, trained=None)
            case "joint":
                return replace(self, trained=(_join(self.seen),))
            case "none":
                return replace(self, trained=())


def _join(domains: Sequence[Domain]) -> Domain:
    """Merge the training records of all domains; person and camera ids stay distinct."""
    train: list[Record] = []
    num_persons = num_cameras = 0
    for domain in domains:
        train += [
            replace(
                record,
                person_id=record.person_id + num_persons,
                camera_id=record.camera_id + num_cameras,
            )
            for record in domain.train
        ]
        num_persons += domain.num_persons
        num_cameras += 1 + max(record.camera_id for record in domain.train)
    empty = Split((), ())
    return Domain("joint", tuple(train), empty, empty)


@dataclass(frozen=True, slots=True)
class Batch:
    """Part of a training batch that one worker processes.

    Attributes:
        indices: [B] long, positions in the domain's training list.
        person_ids: [B] long, contiguous within the domain.
        camera_ids: [B] long.
        views: augmented, normalised images [B, 3, H, W] by view name ("weak", "strong", "test");
            empty in a stage that trains on cached features.
        replay: part of a batch of exemplars from earlier domains, or None. Its `indices` are
            positions in the learner's `replay_records`, its `person_ids` those of these records
            (contiguous over all learned domains).
    """

    indices: Tensor
    person_ids: Tensor
    camera_ids: Tensor
    views: Mapping[str, Tensor]
    replay: Batch | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy all tensors to a device."""
        return Batch(
            self.indices.to(device),
            self.person_ids.to(device),
            self.camera_ids.to(device),
            {name: view.to(device) for name, view in self.views.items()},
            None if self.replay is None else self.replay.to(device),
        )
