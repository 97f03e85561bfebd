"""GRID (QMUL underGround Re-IDentification): 250 people in a station, one image by each camera.

`probe/` and `gallery/` hold files like `0001_1_25004_107_32_106_221.jpeg`: person 1. 775 further
gallery images are of people without a probe image; they are all numbered 0000. Which 125 people
train in each of ten splits is in `features_and_partitions.mat`.
Loy, Xiang, Gong, "Multi-camera Activity Correlation Analysis", CVPR 2009.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions, named_images
from tasks.datasets._matlab import read_mat
from tasks.protocol.split_files import check_index
from tasks.protocol.splits import (
    Division,
    camera_plan,
    own_split_file,
    split_domain,
    split_facts,
    split_from_file,
)
from tasks.schema import RawDomain, Record

_PARTITIONS = "features_and_partitions.mat"
_TRAINING = "trainIdxAll"
FACTS = DatasetFacts(
    title="GRID",
    folders=("grid/underground_reid", "underground_reid", "GRID/underground_reid", "GRID", "grid"),
    layouts=(
        Layout(
            "underground_reid",
            needs=("probe", "gallery", _PARTITIONS),
            expected={
                "train": Counts(250, 125, 2),
                "query": Counts(125, 125, 1),
                "gallery": Counts(900, 126, 1),
            },
        ),
    ),
    licence="research only",
    source="Loy et al., Multi-camera Activity Correlation Analysis, CVPR 2009",
)
_FILE_NAME = re.compile(r"(\d{4})_\d+_.*\.(?:jpe?g|png)", re.IGNORECASE)
_EXAMPLE = "0001_1_25004_107_32_106_221.jpeg"
_UNMATCHED = 0


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads one of GRID's splits: probe images are by camera 0, gallery images by camera 1.

    Raises:
        FileNotFoundError, ValueError: what is wrong with a folder, the partitions or a split file;
            a person lacks an image.
    """
    images = [
        Record(str(image.path), int(image.match[1]), camera_id)
        for camera_id, part in enumerate(("probe", "gallery"))
        for image in named_images(place, place.folder / part, _FILE_NAME, _EXAMPLE)
    ]
    unmatched = [record for record in images if record.person_id == _UNMATCHED]
    pairs = [record for record in images if record.person_id != _UNMATCHED]
    _check_pairs(place, pairs)
    plan = camera_plan(pairs, (0,), [record for record in unmatched if record.camera_id == 1])
    if place.name in options.split_files:
        file = own_split_file(place, options)
        return split_from_file(place, plan, file, index=options.split_index, source="file")
    partitions = _training_people(place, plan.people)
    index = options.split_index
    check_index(place, index, len(partitions), _PARTITIONS)
    train = partitions[index]
    split = plan.arrangements[0](Division(index, train, frozenset(plan.people) - train))
    return split_domain(place, split, split_facts(_PARTITIONS, index, len(partitions)))


def _check_pairs(place: Place, pairs: Collection[Record]) -> None:
    probe, gallery = ({each.person_id for each in pairs if each.camera_id == c} for c in (0, 1))
    if odd := sorted(probe ^ gallery):
        raise ValueError(
            f"{place.title}: people should have an image in both probe and gallery under "
            f"{place.folder}; person {odd[0]} is in one of them. Fetch the missing images."
        )


def _training_people(place: Place, people: Collection[int]) -> list[frozenset[int]]:
    """Who trains in each split of the data set's own partitions."""
    file = place.folder / _PARTITIONS
    partitions: list[frozenset[int]] = []
    for number, listed in enumerate(_rows(read_mat(place, file, (_TRAINING,))[_TRAINING])):
        train = frozenset(listed)
        if not train or not train < set(people) or len(train) < len(listed):
            raise ValueError(
                f"{place.title}: {_TRAINING} of {file} should name, for each split, people who "
                f"train, out of the {len(people)} who have a probe image; split {number} names "
                f"{len(listed)}, of whom {len(train & set(people))} have one. Fetch the data set's "
                "own file, or the missing images."
            )
        partitions.append(train)
    return partitions


def _rows(value: np.ndarray) -> list[list[int]]:
    """One list of people a split, of a matrix with a row a split or of a cell of structures.

    The published file has a 1 x 10 cell; the third field of each structure in it lists people.
    """
    if value.dtype == object or value.dtype.names:
        return [_people(cell) for cell in value.ravel()]
    return [row.astype(int).tolist() for row in np.atleast_2d(value)]


def _people(cell: np.ndarray | np.void) -> list[int]:
    while cell.dtype == object or cell.dtype.names:
        if cell.dtype.names:
            third = cell.dtype.names[2:3]
            cell = np.asarray(cell[third[0]] if third else [])
        else:
            cell = np.asarray(cell.ravel()[0] if cell.size else [])
    return np.ravel(cell).astype(int).tolist()
