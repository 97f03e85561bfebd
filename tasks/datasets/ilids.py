"""i-LIDS (QMUL): 119 people in an airport, two to eight images each.

`Persons/` holds files like `0001002.jpg`: person 1, image 2; the camera is not said. Half of the
people train, on all their images. Of each other person two images are drawn: one queries, one is
in the gallery, as if by another camera.
Zheng, Gong, Xiang, "Associating Groups of People", BMVC 2009.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions, named_images
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


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads one of i-LIDS' splits.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the folder or a split file; a person has
            one image.
    """
    images = [
        Record(str(image.path), int(image.match[1]), _CAMERA)
        for image in named_images(place, place.folder / "Persons", _FILE_NAME, "0001002.jpg")
    ]
    by_person: defaultdict[int, list[Record]] = defaultdict(list)
    for record in images:
        by_person[record.person_id].append(record)
    if single := [person for person, records in by_person.items() if len(records) < 2]:
        raise ValueError(
            f"{place.title}: expected at least two images of each person in "
            f"{place.folder / 'Persons'}; person {single[0]} has one. Fetch the missing images."
        )
    plan = SplitPlan(
        images=tuple(images),
        people=tuple(sorted(by_person)),
        arrangements=(partial(_one_against_one, place.name, by_person),),
        gallery_camera=_GALLERY_CAMERA,
    )
    return choose_split(place, options, plan)


def _one_against_one(
    name: str, by_person: Mapping[int, Sequence[Record]], division: Division
) -> TrainTest:
    """All images of those who train; one query and one gallery image of the others."""
    query: list[Record] = []
    gallery: list[Record] = []
    for person in sorted(division.test):
        by_name = {Path(record.image_path).name: record for record in by_person[person]}
        first, second, *_ = hash_order(name, division.draw, by_name)
        query.append(by_name[first])
        gallery.append(by_name[second])
    train = tuple(record for person in sorted(division.train) for record in by_person[person])
    return TrainTest(train, tuple(query), tuple(gallery))
