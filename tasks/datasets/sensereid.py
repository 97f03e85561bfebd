"""SenseReID: queries in `test_probe/`, gallery in `test_gallery/`; no training images.

`00001_0.jpg` is person 1, camera 0; camera ids in file names start at 0 and are used unchanged.
Most people in the gallery have no query.
Zhao et al., "Spindle Net: Person Re-identification with Human Body Region Guided Feature
Decomposition and Fusion", CVPR 2017.
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
from tasks.schema import RawDomain, Record, Split

_QUERY, _GALLERY = "test_probe", "test_gallery"
FACTS = DatasetFacts(
    title="SenseReID",
    folders=("SenseReID", "sensereid/SenseReID", "sense/SenseReID", "sensereid", "sense"),
    layouts=(
        Layout(
            "test only",
            needs=(_QUERY, _GALLERY),
            expected={
                "train": Counts(0, 0, 0),
                "query": Counts(1_040, 522),
                "gallery": Counts(3_388, 1_717),
            },
        ),
    ),
    licence="research only",
    source="Zhao et al., Spindle Net: Person Re-identification with Human Body Region Guided "
    "Feature Decomposition and Fusion, CVPR 2017",
)
EXAMPLE = "00001_0.jpg"
_FILE_NAME = re.compile(r"(?P<person>\d+)_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read SenseReID; original person and camera ids.

    Raises:
        ValueError: a folder is empty or none of its file names parses.
    """
    query, gallery = (_read_folder(dataset, part) for part in (_QUERY, _GALLERY))
    return RawDomain(
        name=dataset.name,
        train=(),
        test=Split(query, gallery),
        folder=dataset.folder,
        variant=dataset.layout.variant,
    )


def _read_folder(dataset: LocatedDataset, part: str) -> tuple[Record, ...]:
    return tuple(
        Record(str(image.path), int(image.match[1]), camera_id=int(image.match[2]))
        for image in named_images(dataset, dataset.folder / part, _FILE_NAME, EXAMPLE)
    )
