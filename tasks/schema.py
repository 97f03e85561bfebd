"""The nouns that every room of the house shares: records, domains, benchmarks, batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from torch import Tensor

Course = Literal["sequential", "joint", "none"]
"""How a method meets the seen domains: one after another, all at once, or not at all."""


class FrozenConfig(BaseModel):
    """Base of every configuration section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Record:
    """One image on disk and what is known of it.

    `person_id` is contiguous (0..num_persons-1) in a training list and the data set's own number
    in validation and test lists. `parts` holds the K part descriptions (head, upper, lower, foot),
    `captions` descriptions of the whole person; both are empty where a data set has none.
    `identity` and `clothing` are a machine's two texts about the image: what the person keeps from
    day to day, and what it wears; "" where nobody wrote them.
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
        """The first description of the whole person, or ""."""
        return self.captions[0] if self.captions else ""


@dataclass(frozen=True, slots=True)
class Split:
    """What one retrieval evaluation needs: each query is ranked against the whole gallery.

    With `query_by` "text" a query is its record's one caption, not its image, and no camera rule
    holds (text-to-image protocol); with "image" it is the image (Market-1501 protocol).
    """

    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    query_by: Literal["image", "text"] = "image"


@dataclass(frozen=True, slots=True)
class RawDomain:
    """A data set as its reader found it: ids are the data set's own, nothing is held out yet.

    Attributes:
        name: the reader's.
        train: empty where a data set is for tests alone.
        test: queries and gallery.
        validation: the data set's own validation people, or None where it has none.
        description_file: where the part descriptions of its images are, or None.
        dual_file: where their identity and clothing descriptions are, or None.
        folder: what the image paths of its protocol lock are relative to.
        variant: which of the forms of the data set this is.
        facts: plain values that pin what was read (version, split, source), for the lock.
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
    """One data set in the lifelong order; train, validation and test people are disjoint."""

    name: str
    train: tuple[Record, ...]
    validation: Split
    test: Split

    @property
    def num_persons(self) -> int:
        """Number of training identities (person_id runs from 0 to num_persons - 1)."""
        return 1 + max((record.person_id for record in self.train), default=-1)

    @property
    def person_ids(self) -> npt.NDArray[np.int64]:
        """[N] identities of the training images."""
        return np.array([record.person_id for record in self.train], dtype=np.int64)

    def without(self, bad_indices: Collection[int]) -> Domain:
        """The domain without the training records at `bad_indices`, ids made contiguous again."""
        if not bad_indices:
            return self
        bad = set(bad_indices)
        kept = [record for index, record in enumerate(self.train) if index not in bad]
        ids = {old: new for new, old in enumerate(sorted({record.person_id for record in kept}))}
        train = tuple(replace(record, person_id=ids[record.person_id]) for record in kept)
        return replace(self, train=train)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Domains in lifelong order, those never trained on, and the lock that pins the protocol.

    `taught` is what a method learns, one after another, if that is not the seen domains as they
    come: all of them as one (joint training), or nothing.
    """

    name: str
    seen: tuple[Domain, ...]
    unseen: tuple[Domain, ...]
    lock: Mapping[str, Any]
    taught: tuple[Domain, ...] | None = None

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Seen domains, then unseen ones: the columns of every result matrix."""
        return self.seen + self.unseen

    @property
    def steps(self) -> tuple[Domain, ...]:
        """What is learned, one after another."""
        return self.seen if self.taught is None else self.taught

    def for_course(self, course: Course) -> Benchmark:
        """The benchmark as a method with this course learns it."""
        match course:
            case "sequential":
                return replace(self, taught=None)
            case "joint":
                return replace(self, taught=(_joined(self.seen),))
            case "none":
                return replace(self, taught=())


def _joined(domains: Sequence[Domain]) -> Domain:
    """The training people of all domains as one domain, each a person and a camera of their own."""
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
    nobody = Split((), ())
    return Domain("joint", tuple(train), nobody, nobody)


@dataclass(frozen=True, slots=True)
class Batch:
    """One worker's share of a training batch.

    Attributes:
        indices: [B] long, positions in the domain's training list.
        person_ids: [B] long, contiguous inside the domain.
        camera_ids: [B] long.
        views: augmented, normalised images [B, 3, H, W] by view name ("weak", "strong", "test");
            empty for a stage that trains on cached features.
        replay: this worker's share of a batch of exemplars of earlier domains, or None. Its
            `indices` are positions in the learner's `replay_records`, its `person_ids` theirs
            (contiguous over all learned domains).
    """

    indices: Tensor
    person_ids: Tensor
    camera_ids: Tensor
    views: Mapping[str, Tensor]
    replay: Batch | None = None
