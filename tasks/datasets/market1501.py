"""Market-1501, and its layout, which other data sets also use.

`bounding_box_train/`, `query/` and `bounding_box_test/` contain files like
`0002_c1s1_000451_03.jpg`: person 2, camera 1. In the gallery, person -1 is junk (skipped) and
person 0 a distractor (kept; matches no query).
Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    NamedImage,
    ReadOptions,
    named_images,
)
from tasks.schema import RawDomain, Record, Split

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
FACTS = DatasetFacts(
    title="Market-1501",
    folders=(
        "Market-1501-v15.09.15",
        "Market-1501",
        "market1501",
        "market1501/Market-1501-v15.09.15",
        "market1501/Market-1501",
    ),
    layouts=(
        Layout(
            "v15.09.15",
            needs=FOLDERS,
            expected={
                "train": Counts(12_936, 751, 6),
                "query": Counts(3_368, 750, 6),
                "gallery": Counts(15_913, 751, 6),
            },
        ),
    ),
    licence="research only",
    source="Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015",
)
EXAMPLE = "0002_c1s1_000451_03.jpg"
_FILE_NAME = re.compile(r"(?P<person>-?\d+)_c(\d+)(?:s\d+)?_.*\.(?:jpe?g|png)", re.IGNORECASE)
_JUNK, _DISTRACTOR = -1, 0


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read Market-1501; original person ids, camera ids start at 0.

    Raises:
        ValueError: a folder is empty or none of its file names parses.
    """
    return read_market_layout(dataset)


def read_market_layout(dataset: LocatedDataset) -> RawDomain:
    """Read a data set with the layout and file names of Market-1501, sorted by file name.

    Camera ids are the numbers in the names minus 1, or the numbers themselves if they start at 0.

    Raises:
        ValueError: a folder is empty, none of its file names parses, or a person is negative and
            not -1.
    """
    images = {
        part: named_images(dataset, dataset.folder / part, _FILE_NAME, EXAMPLE) for part in FOLDERS
    }
    first_camera = min(1, *(int(image.match[2]) for part in FOLDERS for image in images[part]))
    train, query, gallery = (_records(dataset, images[part], first_camera) for part in FOLDERS)
    return RawDomain(
        name=dataset.name,
        train=tuple(record for record in train if record.person_id != _DISTRACTOR),
        test=Split(
            query=tuple(record for record in query if record.person_id != _DISTRACTOR),
            gallery=gallery,
        ),
        folder=dataset.folder,
        variant=dataset.layout.variant,
    )


def _records(
    dataset: LocatedDataset, images: Sequence[NamedImage], first_camera: int
) -> tuple[Record, ...]:
    """Return the records of a folder, without junk."""
    records: list[Record] = []
    for image in images:
        person_id = int(image.match["person"])
        if person_id < _JUNK:
            raise ValueError(
                f"{dataset.title}: expected a person from 0 on, or -1 for junk, as in {EXAMPLE}; "
                f"got person {person_id} in {image.path}. Rename or remove such files."
            )
        if person_id != _JUNK:
            camera_id = int(image.match[2]) - first_camera
            records.append(Record(str(image.path), person_id, camera_id))
    return tuple(records)
