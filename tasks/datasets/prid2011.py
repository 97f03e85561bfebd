"""PRID 2011, single-shot: two cameras, 200 people seen by both.

`single_shot/cam_a/` and `single_shot/cam_b/` contain files like `person_0001.png`. People 1 to 200
are the same in both; half of them are for training. Queries are by camera 0 (a), the gallery by
camera 1 (b). The gallery includes people from 201 on, seen by camera b only. People seen by camera
a only are not used.
Hirzer, Beleznai, Roth, Bischof, "Person Re-Identification by Descriptive and Discriminative
Classification", SCIA 2011.
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

_CAMERAS = ("single_shot/cam_a", "single_shot/cam_b")
FACTS = DatasetFacts(
    title="PRID 2011",
    folders=("prid2011", "prid_2011", "PRID2011", "prid2011/prid_2011", "PRID2011/prid_2011"),
    layouts=(
        Layout(
            "single_shot",
            needs=_CAMERAS,
            expected={
                "train": Counts(200, 100, 2),
                "query": Counts(100, 100, 1),
                "gallery": Counts(649, 649, 1),
            },
        ),
    ),
    licence="not stated with the images",
    source="Hirzer et al., Person Re-Identification by Descriptive and Discriminative "
    "Classification, SCIA 2011",
)
_FILE_NAME = re.compile(r"person_(\d{4})\.(?:png|jpe?g)", re.IGNORECASE)
_LAST_SHARED = 200


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one split of PRID 2011.

    Raises:
        FileNotFoundError, ValueError: a folder or the split file is missing or invalid, or a
            person up to 200 lacks an image.
    """
    views = [
        {
            int(image.match[1]): Record(str(image.path), int(image.match[1]), camera_id)
            for image in named_images(
                dataset, dataset.folder / camera, _FILE_NAME, "person_0001.png"
            )
        }
        for camera_id, camera in enumerate(_CAMERAS)
    ]
    shared = [{person for person in view if person <= _LAST_SHARED} for view in views]
    if single := sorted(shared[0] ^ shared[1]):
        raise ValueError(
            f"{dataset.title}: expected people 1 to {_LAST_SHARED} in both {_CAMERAS[0]} and "
            f"{_CAMERAS[1]} under {dataset.folder}; person {single[0]} is in one of them. Download "
            "the missing images."
        )
    images = [view[person] for view in views for person in sorted(shared[0])]
    distractors = [record for person, record in views[1].items() if person > _LAST_SHARED]
    return choose_split(dataset, options, camera_plan(images, (0,), distractors))
