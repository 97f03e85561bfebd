"""i-LIDS (QMUL): 119 people in an airport, two to eight images each.

`Persons/` contains files like `0001002.jpg`: person 1, image 2; the camera is unknown. Half of the
people are for training, with all their images. For each test person two random images are used:
one as query, one in the gallery with another camera id.
Zheng, Gong, Xiang, "Associating Groups of People", BMVC 2009.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    named_images,
)
from tasks.protocol.split_files import TrainTest
from tasks.protocol.splits import Division, SplitPlan, choose_split, hash_order
from tasks.schema import RawDomain, Record

FACTS = DatasetFacts(
    title="i-LIDS",
    folders=(
        "i-LIDS_Pedestrian",
        "ilids/i-LIDS_Pedestrian",
        "i-LIDS_Pedestrain",
        "ilids/i-LIDS_Pedestrain",
        "ilids",
    ),
    layouts=(
        Layout(
            "Persons",
            needs=("Persons",),
            expected={
                "train": Counts(None, 59, 1),
                "query": Counts(60, 60, 1),
                "gallery": Counts(60, 60, 1),
            },
        ),
    ),
    licence="not stated with the images",
    source="Zheng et al., Associating Groups of People, BMVC 2009",
)
_FILE_NAME = re.compile(r"(\d{4})\d{3,4}\.(?:jpe?g|png)", re.IGNORECASE)
_CAMERA, _GALLERY_CAMERA = 0, 1


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one split of i-LIDS.

    Raises:
        FileNotFoundError, ValueError: the folder or the split file is missing or invalid, or a
            person has one image.
    """
    images = [
        Record(str(image.path), int(image.match[1]), _CAMERA)
        for image in named_images(dataset, dataset.folder / "Persons", _FILE_NAME, "0001002.jpg")
    ]
    by_person: defaultdict[int, list[Record]] = defaultdict(list)
    for record in images:
        by_person[record.person_id].append(record)
    if single := [person for person, records in by_person.items() if len(records) < 2]:
        raise ValueError(
            f"{dataset.title}: expected at least two images of each person in "
            f"{dataset.folder / 'Persons'}; person {single[0]} has one. Download the missing "
            "images."
        )
    plan = SplitPlan(
        images=tuple(images),
        people=tuple(sorted(by_person)),
        arrangements=(partial(_single_images, dataset.name, by_person),),
        gallery_camera=_GALLERY_CAMERA,
    )
    return choose_split(dataset, options, plan)


def _single_images(
    name: str, by_person: Mapping[int, Sequence[Record]], division: Division
) -> TrainTest:
    """Return all images of training people, one query and one gallery image of test people."""
    query: list[Record] = []
    gallery: list[Record] = []
    for person in sorted(division.test):
        by_name = {Path(record.image_path).name: record for record in by_person[person]}
        first, second, *_ = hash_order(name, division.draw, by_name)
        query.append(by_name[first])
        gallery.append(by_name[second])
    train = tuple(record for person in sorted(division.train) for record in by_person[person])
    return TrainTest(train, tuple(query), tuple(gallery))
