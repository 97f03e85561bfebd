"""Random train/test splits: generated from a fixed seed or read from a split file.

The literature splits small data sets at random, without common splits. The generated splits depend
only on the person ids and `SEED`; a split file replaces them. In both cases the content hash of the
chosen split enters the protocol lock.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tasks.dataset_files import LocatedDataset, ReadOptions, read_json, write_json
from tasks.protocol.split_files import (
    TrainTest,
    check_index,
    listed_images,
    listed_people,
    read_split_file,
    split_as_json,
    split_sha256,
)
from tasks.schema import RawDomain, Record, Split

SEED = 0
NUM_DRAWS = 10


@dataclass(frozen=True, slots=True)
class Division:
    """Training and test ids of one random draw."""

    draw: int
    train: frozenset[int]
    test: frozenset[int]


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How a data set is split.

    Attributes:
        images: all images that a split may contain.
        people: sorted ids that are divided into training and test.
        arrangements: functions from a division to a split, for instance camera 0 against 1 and 1
            against 0; empty if a split file must list images.
        gallery_camera: camera id for all gallery images if file names contain no camera.
    """

    images: tuple[Record, ...]
    people: tuple[int, ...]
    arrangements: tuple[Callable[[Division], TrainTest], ...]
    gallery_camera: int | None = None


def camera_plan(
    images: Sequence[Record], query_cameras: Sequence[int], distractors: Sequence[Record] = ()
) -> SplitPlan:
    """Plan splits in which queries are test images by one camera and the gallery has the rest.

    Args:
        images: images of the people to divide.
        query_cameras: cameras of the queries; each gives one split per division.
        distractors: images of further people, added to every gallery.
    """
    return SplitPlan(
        images=(*images, *distractors),
        people=tuple(sorted({record.person_id for record in images})),
        arrangements=tuple(
            partial(across_cameras, images, distractors, camera) for camera in query_cameras
        ),
    )


def across_cameras(
    images: Sequence[Record], distractors: Sequence[Record], query_camera: int, division: Division
) -> TrainTest:
    """Split test images into queries by `query_camera` and a gallery of other cameras."""
    test = [record for record in images if record.person_id in division.test]
    return TrainTest(
        train=tuple(record for record in images if record.person_id in division.train),
        query=tuple(record for record in test if record.camera_id == query_camera),
        gallery=(*(each for each in test if each.camera_id != query_camera), *distractors),
    )


def hash_order(name: str, draw: int, items: Iterable[str]) -> list[str]:
    """Sort items by the SHA-256 of data set name, `SEED`, draw and item.

    The result does not depend on the order of `items` or on versions of Python and libraries.
    """

    def digest(item: str) -> bytes:
        return hashlib.sha256(f"{name}\t{SEED}\t{draw}\t{item}".encode()).digest()

    return sorted(items, key=digest)


def draw_splits(name: str, plan: SplitPlan) -> list[TrainTest]:
    """Generate the splits of `NUM_DRAWS` draws; half of the people (rounded down) train.

    The splits of a draw are consecutive, in the order of the arrangements.
    """
    splits: list[TrainTest] = []
    for draw in range(NUM_DRAWS):
        order = [int(item) for item in hash_order(name, draw, map(str, plan.people))]
        half = len(order) // 2
        division = Division(draw, frozenset(order[:half]), frozenset(order[half:]))
        splits += [arrange(division) for arrange in plan.arrangements]
    return splits


def choose_split(dataset: LocatedDataset, options: ReadOptions, plan: SplitPlan) -> RawDomain:
    """Return the split selected by the options: from the user's split file, else generated.

    Generated splits are written to <derived>/splits/<name>.json for reuse. If the file exists, it
    must contain the same splits.

    Raises:
        FileNotFoundError: the split file or an image in it does not exist.
        ValueError: a file or the split index is invalid.
    """
    if dataset.name in options.split_files:
        file = user_split_file(dataset, options)
        return split_from_file(dataset, plan, file, index=options.split_index, source="file")
    splits = [_set_gallery_camera(plan, split) for split in draw_splits(dataset.name, plan)]
    check_index(dataset, options.split_index, len(splits), "the data set")
    _save(dataset, splits, options)
    return split_domain(
        dataset,
        splits[options.split_index],
        split_facts(f"generated seed {SEED}", options.split_index, len(splits)),
    )


def user_split_file(dataset: LocatedDataset, options: ReadOptions) -> Path:
    """Return the path of the user's split file for a data set.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    file = Path(options.split_files[dataset.name]).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"{dataset.title}: the split file {file} does not exist. Set "
            f"benchmark.split_files.{dataset.name} to a JSON file of splits, or remove it."
        )
    return file


def split_from_file(
    dataset: LocatedDataset, plan: SplitPlan, file: Path, *, index: int, source: str
) -> RawDomain:
    """Read split `index` of a split file.

    Args:
        dataset: the data set.
        plan: images and people that the split may contain.
        file: the split file.
        index: index of the split.
        source: description of the file, enters the protocol lock.

    Raises:
        FileNotFoundError: the file or a listed image does not exist.
        ValueError: the file or the index is invalid.
    """
    listed, num_splits = read_split_file(dataset, file, index)
    where = f"{file}, split {index}"
    people = listed_people(listed, where) if plan.arrangements else None
    if people is None:
        split = listed_images(dataset, plan.images, listed, where)
    else:
        split = _split_of_people(plan, people, index, where)
    return split_domain(
        dataset, _set_gallery_camera(plan, split), split_facts(source, index, num_splits)
    )


def split_facts(source: str, index: int, num_splits: int) -> dict[str, Any]:
    """Return the lock values that describe the origin of a split."""
    return {"split_source": source, "split_index": index, "num_splits": num_splits}


def split_domain(dataset: LocatedDataset, split: TrainTest, facts: Mapping[str, Any]) -> RawDomain:
    """Build the domain of a split, sorted by path; add the content hash to the facts."""
    train, query, gallery = (
        tuple(sorted(records, key=lambda record: record.image_path))
        for records in split.parts().values()
    )
    return RawDomain(
        name=dataset.name,
        train=train,
        test=Split(query, gallery),
        folder=dataset.folder,
        variant=dataset.layout.variant,
        facts={**facts, "split_sha256": split_sha256(split, dataset.folder)},
    )


def _split_of_people(
    plan: SplitPlan, people: tuple[Sequence[int], Sequence[int]], index: int, where: str
) -> TrainTest:
    train, test = people
    if unknown := sorted({*train, *test} - set(plan.people)):
        raise ValueError(
            f"{where} lists person {unknown[0]}"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + f", but this data set has people {plan.people[0]} to {plan.people[-1]}. "
            "Download the split file that matches these images."
        )
    draw, arrangement = divmod(index, len(plan.arrangements))
    return plan.arrangements[arrangement](Division(draw, frozenset(train), frozenset(test)))


def _set_gallery_camera(plan: SplitPlan, split: TrainTest) -> TrainTest:
    if plan.gallery_camera is None:
        return split
    camera_id = plan.gallery_camera
    gallery = tuple(replace(record, camera_id=camera_id) for record in split.gallery)
    return replace(split, gallery=gallery)


def _save(dataset: LocatedDataset, splits: Sequence[TrainTest], options: ReadOptions) -> None:
    """Write generated splits, or check that the existing file contains the same splits.

    Raises:
        ValueError: the file contains other splits or is damaged.
    """
    file = Path(options.derived).expanduser() / "splits" / f"{dataset.name}.json"
    content = [split_as_json(split, dataset.folder) for split in splits]
    if file.is_file():
        _check_saved(dataset, file, content)
        return
    log = logging.getLogger(__name__)
    try:
        write_json(file, content)
    except OSError as error:
        log.warning(
            "%s: cannot write the generated splits to %s (%s); continuing without the file",
            dataset.title, file, error.strerror or error,
        )  # fmt: skip
    else:
        log.info("%s: wrote %d generated splits to %s", dataset.title, len(splits), file)


def _check_saved(dataset: LocatedDataset, file: Path, content: object) -> None:
    try:
        saved = read_json(dataset, file)
    except ValueError as error:
        raise ValueError(
            f"{error} The file contained generated splits: delete it to generate it again."
        ) from error
    if saved != content:
        raise ValueError(
            f"{dataset.title}: {file} contains other splits than seed {SEED} gives for the images "
            f"in {dataset.folder}: it was generated from other images or edited. Delete it to "
            f"generate it again, or set benchmark.split_files.{dataset.name}={file} to use it."
        )
