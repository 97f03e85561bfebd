"""CUHK02: five pairs of cameras, `P1/` to `P5/`, each with `cam1/` and `cam2/`.

The base name up to `_` is the person number within the pair; person 7 of pair 3 has id 3,000,007.
As in the readers of the literature there are ten cameras: pair 1 has 0 and 1, pair 5 has 8 and 9.
Pairs 1 to 4 are for training. In pair 5 the first camera has the queries, the second the gallery.
Pair 1 shows people of CUHK01: do not train on one and test on the other.
Li and Wang, "Locally Aligned Feature Transforms across Views", CVPR 2013.
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

_NUM_PAIRS = 5
_PAIR_OFFSET = 1_000_000
FACTS = DatasetFacts(
    title="CUHK02",
    folders=("CUHK02", "cuhk02", "CUHK02/Dataset", "cuhk02/Dataset", "Dataset"),
    layouts=(
        Layout(
            "five pairs",
            needs=tuple(
                f"P{pair}/cam{camera}" for pair in range(1, _NUM_PAIRS + 1) for camera in (1, 2)
            ),
            expected={
                "train": Counts(6_308, 1_577, 8),
                "query": Counts(478, 239, 1),
                "gallery": Counts(478, 239, 1),
            },
        ),
    ),
    licence="research only",
    source="Li and Wang, Locally Aligned Feature Transforms across Views, CVPR 2013",
)
EXAMPLE = "001_0001.png"
_FILE_NAME = re.compile(r"(?P<person>\d{1,6})_.*\.(?:png|jpe?g)", re.IGNORECASE)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read CUHK02; person ids are number + 1,000,000 x pair, camera ids 0 to 9.

    Raises:
        ValueError: a folder is empty or none of its file names parses.
    """
    train = tuple(
        record
        for pair in range(1, _NUM_PAIRS)
        for camera in (1, 2)
        for record in _read_camera(dataset, pair, camera)
    )
    query, gallery = (_read_camera(dataset, _NUM_PAIRS, camera) for camera in (1, 2))
    return RawDomain(
        name=dataset.name,
        train=train,
        test=Split(query, gallery),
        folder=dataset.folder,
        variant=dataset.layout.variant,
        facts={"person_ids": f"{_PAIR_OFFSET} x pair + number in the pair"},
    )


def _read_camera(dataset: LocatedDataset, pair: int, camera: int) -> tuple[Record, ...]:
    folder = dataset.folder / f"P{pair}" / f"cam{camera}"
    return tuple(
        Record(
            str(image.path),
            person_id=_PAIR_OFFSET * pair + int(image.match[1]),
            camera_id=2 * (pair - 1) + camera - 1,
        )
        for image in named_images(dataset, folder, _FILE_NAME, EXAMPLE)
    )
