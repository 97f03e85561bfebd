"""GRID (QMUL underGround Re-IDentification): 250 people in a station, one image by each camera.

`probe/` and `gallery/` contain files like `0001_1_25004_107_32_106_221.jpeg`: person 1. 775 further
gallery images show people without a probe image; all have the number 0000.
`features_and_partitions.mat` lists the 125 training people of each of ten splits.
Loy, Xiang, Gong, "Multi-camera Activity Correlation Analysis", CVPR 2009.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    named_images,
)
from tasks.datasets._matlab import read_mat
from tasks.protocol.split_files import check_index
from tasks.protocol.splits import (
    Division,
    camera_plan,
    split_domain,
    split_facts,
    split_from_file,
    user_split_file,
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


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one split of GRID; probe images have camera 0, gallery images camera 1.

    Raises:
        FileNotFoundError, ValueError: a folder, the partitions or the split file is missing or
            invalid, or a person lacks an image.
    """
    images = [
        Record(str(image.path), int(image.match[1]), camera_id)
        for camera_id, part in enumerate(("probe", "gallery"))
        for image in named_images(dataset, dataset.folder / part, _FILE_NAME, _EXAMPLE)
    ]
    unmatched = [record for record in images if record.person_id == _UNMATCHED]
    pairs = [record for record in images if record.person_id != _UNMATCHED]
    _check_pairs(dataset, pairs)
    plan = camera_plan(pairs, (0,), [record for record in unmatched if record.camera_id == 1])
    if dataset.name in options.split_files:
        file = user_split_file(dataset, options)
        return split_from_file(dataset, plan, file, index=options.split_index, source="file")
    partitions = _training_people(dataset, plan.people)
    index = options.split_index
    check_index(dataset, index, len(partitions), _PARTITIONS)
    train = partitions[index]
    split = plan.arrangements[0](Division(index, train, frozenset(plan.people) - train))
    return split_domain(dataset, split, split_facts(_PARTITIONS, index, len(partitions)))


def _check_pairs(dataset: LocatedDataset, pairs: Collection[Record]) -> None:
    probe, gallery = ({each.person_id for each in pairs if each.camera_id == c} for c in (0, 1))
    if single := sorted(probe ^ gallery):
        raise ValueError(
            f"{dataset.title}: expected an image of each person in both probe and gallery under "
            f"{dataset.folder}; person {single[0]} is in one of them. Download the missing images."
        )


def _training_people(dataset: LocatedDataset, people: Collection[int]) -> list[frozenset[int]]:
    """Read the training people of each split from the partitions of the data set."""
    file = dataset.folder / _PARTITIONS
    partitions: list[frozenset[int]] = []
    for number, listed in enumerate(_rows(read_mat(dataset, file, (_TRAINING,))[_TRAINING])):
        train = frozenset(listed)
        if not train or not train < set(people) or len(train) < len(listed):
            raise ValueError(
                f"{dataset.title}: expected {_TRAINING} of {file} to list, for each split, some of "
                f"the {len(people)} people with a probe image; split {number} lists "
                f"{len(listed)}, of whom {len(train & set(people))} have one. Download the "
                "original file, or the missing images."
            )
        partitions.append(train)
    return partitions


def _rows(value: np.ndarray) -> list[list[int]]:
    """Return the people of each split, from a matrix with one row per split or a cell array.

    The published file has a 1 x 10 cell array of structures, whose third field lists the people.
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
