"""Random splits of a data set's people: drawn from a fixed seed, or read from a split file.

The small data sets of the literature are split at random, and every laboratory has splits of its
own. Ours are a function of the people and `SEED` alone; a file of other splits takes their place.
The content hash of the chosen split enters the protocol lock either way.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tasks.dataset_files import Place, ReadOptions, read_json
from tasks.protocol.split_files import (
    TrainTest,
    check_index,
    listed_images,
    listed_people,
    read_split_file,
    split_as_json,
    split_sha256,
    write_json,
)
from tasks.schema import RawDomain, Record, Split

SEED = 0
NUM_DRAWS = 10


@dataclass(frozen=True, slots=True)
class Division:
    """Who trains and who is tested in one draw."""

    draw: int
    train: frozenset[int]
    test: frozenset[int]


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What can be split, and how.

    Attributes:
        images: every image that a split may name.
        people: ids of those who train in some splits and are tested in others.
        arrangements: the splits that each division makes, such as camera 0 against 1, and 1
            against 0; none where a split file must list images.
        gallery_camera: camera of all gallery images, where the file names do not say it.
    """

    images: tuple[Record, ...]
    people: tuple[int, ...]
    arrangements: tuple[Callable[[Division], TrainTest], ...]
    gallery_camera: int | None = None


def camera_plan(
    images: Sequence[Record], query_cameras: Sequence[int], distractors: Sequence[Record] = ()
) -> SplitPlan:
    """Some people train; of the others, one camera's images are searched among the others'.

    Args:
        images: of the people who are divided.
        query_cameras: one split of each division for each of these cameras.
        distractors: images of further people, in the gallery of every split.
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
    """Tested people's images by `query_camera` against those by other cameras and distractors."""
    tested = [record for record in images if record.person_id in division.test]
    return TrainTest(
        train=tuple(record for record in images if record.person_id in division.train),
        query=tuple(record for record in tested if record.camera_id == query_camera),
        gallery=(*(each for each in tested if each.camera_id != query_camera), *distractors),
    )


def hash_order(name: str, draw: int, items: Iterable[str]) -> list[str]:
    """The items in the order of the SHA-256 of data set, `SEED`, draw and item.

    It depends on nothing else: not on the order in which items come, nor on a version of Python or
    of a library.
    """

    def digest(item: str) -> bytes:
        return hashlib.sha256(f"{name}\t{SEED}\t{draw}\t{item}".encode()).digest()

    return sorted(items, key=digest)


def draw_splits(name: str, plan: SplitPlan) -> list[TrainTest]:
    """`NUM_DRAWS` draws, each with half of the people (rounded down) in training.

    The splits of one draw follow one another, in the order of the arrangements.
    """
    splits: list[TrainTest] = []
    for draw in range(NUM_DRAWS):
        order = [int(item) for item in hash_order(name, draw, map(str, plan.people))]
        half = len(order) // 2
        division = Division(draw, frozenset(order[:half]), frozenset(order[half:]))
        splits += [arrange(division) for arrange in plan.arrangements]
    return splits


def choose_split(place: Place, options: ReadOptions, plan: SplitPlan) -> RawDomain:
    """The split that the options name: of the user's split file, else of those drawn.

    Drawn splits are written to <derived>/splits/<name>.json, for others to use. Where that file is
    there already, it must hold the splits that are drawn now.

    Raises:
        FileNotFoundError, ValueError: what is wrong with a file or an index, and what to do.
    """
    if place.name in options.split_files:
        file = own_split_file(place, options)
        return split_from_file(place, plan, file, index=options.split_index, source="file")
    splits = [_finish(plan, split) for split in draw_splits(place.name, plan)]
    check_index(place, options.split_index, len(splits), "the data set")
    _keep(place, splits, options)
    return split_domain(
        place,
        splits[options.split_index],
        split_facts(f"generated seed {SEED}", options.split_index, len(splits)),
    )


def own_split_file(place: Place, options: ReadOptions) -> Path:
    """The split file that the user names for this data set.

    Raises:
        FileNotFoundError: there is none at that path.
    """
    file = Path(options.split_files[place.name]).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"{place.title}: the split file {file} does not exist. Set "
            f"benchmark.split_files.{place.name} to a JSON file of splits, or leave it out."
        )
    return file


def split_from_file(
    place: Place, plan: SplitPlan, file: Path, *, index: int, source: str
) -> RawDomain:
    """Split `index` of a split file; `source` enters the protocol lock.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the file, and what to do.
    """
    listed, num_splits = read_split_file(place, file, index)
    where = f"{file}, split {index}"
    people = listed_people(listed, where) if plan.arrangements else None
    if people is None:
        split = listed_images(place, plan.images, listed, where)
    else:
        split = _split_of_people(plan, people, index, where)
    return split_domain(place, _finish(plan, split), split_facts(source, index, num_splits))


def split_facts(source: str, index: int, num_splits: int) -> dict[str, Any]:
    """What the protocol lock says of where a split comes from."""
    return {"split_source": source, "split_index": index, "num_splits": num_splits}


def split_domain(place: Place, split: TrainTest, facts: Mapping[str, Any]) -> RawDomain:
    """The data set as a split makes it, sorted by path; its content hash joins the facts."""
    train, query, gallery = (
        tuple(sorted(records, key=lambda record: record.image_path))
        for records in split.parts().values()
    )
    return RawDomain(
        name=place.name,
        train=train,
        test=Split(query, gallery),
        folder=place.folder,
        variant=place.layout.variant,
        facts={**facts, "split_sha256": split_sha256(split, place.folder)},
    )


def _split_of_people(
    plan: SplitPlan, people: tuple[Sequence[int], Sequence[int]], index: int, where: str
) -> TrainTest:
    train, test = people
    if unknown := sorted({*train, *test} - set(plan.people)):
        raise ValueError(
            f"{where} lists person {unknown[0]}"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + f", but the people who can be split are {plan.people[0]} to {plan.people[-1]}. "
            "Fetch the split file that belongs to these images."
        )
    draw, way = divmod(index, len(plan.arrangements))
    return plan.arrangements[way](Division(draw, frozenset(train), frozenset(test)))


def _finish(plan: SplitPlan, split: TrainTest) -> TrainTest:
    if plan.gallery_camera is None:
        return split
    camera_id = plan.gallery_camera
    gallery = tuple(replace(record, camera_id=camera_id) for record in split.gallery)
    return replace(split, gallery=gallery)


def _keep(place: Place, splits: Sequence[TrainTest], options: ReadOptions) -> None:
    """Writes drawn splits once, or makes sure that the file of an earlier time says the same.

    Raises:
        ValueError: it says something else, or is damaged.
    """
    file = Path(options.derived).expanduser() / "splits" / f"{place.name}.json"
    content = [split_as_json(split, place.folder) for split in splits]
    if file.is_file():
        _check_kept(place, file, content)
        return
    log = logging.getLogger(__name__)
    try:
        write_json(file, content)
    except OSError as error:
        log.warning(
            "%s: cannot write the generated splits to %s (%s); they are used all the same",
            place.title, file, error.strerror or error,
        )  # fmt: skip
    else:
        log.info("%s: wrote %d generated splits to %s", place.title, len(splits), file)


def _check_kept(place: Place, file: Path, content: object) -> None:
    try:
        kept = read_json(place, file)
    except ValueError as error:
        raise ValueError(
            f"{error} It held generated splits: delete it, and it is made again."
        ) from (error)
    if kept != content:
        raise ValueError(
            f"{place.title}: {file} holds other splits than seed {SEED} gives for the images in "
            f"{place.folder}: it was made from other images, or edited. Delete it to have it made "
            f"again, or set benchmark.split_files.{place.name}={file} to use it as it is."
        )
