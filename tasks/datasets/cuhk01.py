"""CUHK01: two cameras on a campus, two images of each person by each camera.

`campus/` contains files like `0001003.png`: person 1, image 3. Images 1 and 2 are by camera 0,
images 3 and 4 by camera 1. Half of the people are for training. Ten random draws, each with queries
by either camera, give 20 splits.
Li, Zhao, Wang, "Human Reidentification with Transferred Metric Learning", ACCV 2012.
"""

from __future__ import annotations

import re

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    named_images,
)
from tasks.protocol.splits import camera_plan, choose_split
from tasks.schema import RawDomain, Record

FACTS = DatasetFacts(
    title="CUHK01",
    folders=("CUHK01", "cuhk01", "cuhk01/CUHK01", "CUHK01/CUHK01"),
    layouts=(
        Layout(
            "campus",
            needs=("campus",),
            expected={
                "train": Counts(1_940, 485, 2),
                "query": Counts(972, 486, 1),
                "gallery": Counts(972, 486, 1),
            },
        ),
    ),
    licence="research only",
    source="Li et al., Human Reidentification with Transferred Metric Learning, ACCV 2012",
)
_FILE_NAME = re.compile(r"(\d{4})00([1-4])\.(?:png|jpe?g)", re.IGNORECASE)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one split of CUHK01; queries are by camera 0 in even splits, camera 1 in odd ones.

    Raises:
        FileNotFoundError, ValueError: the folder or the split file is missing or invalid.
    """
    images = [
        Record(str(image.path), int(image.match[1]), camera_id=(int(image.match[2]) - 1) // 2)
        for image in named_images(dataset, dataset.folder / "campus", _FILE_NAME, "0001003.png")
    ]
    return choose_split(dataset, options, camera_plan(images, query_cameras=(0, 1)))
