"""CUHK02: five pairs of cameras, `P1/` to `P5/`, each with `cam1/` and `cam2/`.

The base name up to `_` is the person, numbered anew in each pair; person 7 of pair 3 is read as
3,000,007. The cameras of all pairs are ten, as in the literature's readers: pair 1 has 0 and 1,
pair 5 has 8 and 9. Pairs 1 to 4 train; of pair 5, the first camera asks and the second answers.
Pair 1 shows people of CUHK01: who learns one must not be tested on the other.
Li and Wang, "Locally Aligned Feature Transforms across Views", CVPR 2013.
"""

from __future__ import annotations

import re

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions, named_images
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
_FILE_NAME = re.compile(r"(\d{1,6})_.*\.(?:png|jpe?g)", re.IGNORECASE)


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads CUHK02; person ids are its own plus a million times the pair, cameras 0 to 9.

    Raises:
        ValueError: a folder is empty or none of its file names parses.
    """
    train = tuple(
        record
        for pair in range(1, _NUM_PAIRS)
        for camera in (1, 2)
        for record in _read_camera(place, pair, camera)
    )
    query, gallery = (_read_camera(place, _NUM_PAIRS, camera) for camera in (1, 2))
    return RawDomain(
        name=place.name,
        train=train,
        test=Split(query, gallery),
        folder=place.folder,
        variant=place.layout.variant,
        facts={"person_ids": f"{_PAIR_OFFSET} x pair + number in the pair"},
    )


def _read_camera(place: Place, pair: int, camera: int) -> tuple[Record, ...]:
    folder = place.folder / f"P{pair}" / f"cam{camera}"
    return tuple(
        Record(
            str(image.path),
            person_id=_PAIR_OFFSET * pair + int(image.match[1]),
            camera_id=2 * (pair - 1) + camera - 1,
        )
        for image in named_images(place, folder, _FILE_NAME, EXAMPLE)
    )
