"""VIPeR: 632 people, one image by each of two cameras.

`cam_a/` and `cam_b/` hold files like `001_45.bmp`: pair 1, seen from 45 degrees. The pairs'
numbers have gaps, so a person's id is the index of the pair in sorted order, from 0. Half of the
people train; ten random draws, each split both ways.
Gray, Brennan, Tao, "Evaluating Appearance Models for Recognition, Reacquisition, and Tracking",
PETS 2007.
"""

from __future__ import annotations

import re

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions, named_images
from tasks.protocol.splits import camera_plan, choose_split
from tasks.schema import RawDomain, Record

_CAMERAS = ("cam_a", "cam_b")
FACTS = DatasetFacts(
    title="VIPeR",
    folders=("viper/VIPeR", "VIPeR", "viper", "VIPeR/VIPeR", "VIPeR.v1.0/VIPeR", "VIPeR.v1.0"),
    layouts=(
        Layout(
            "v1.0",
            needs=_CAMERAS,
            expected={
                "train": Counts(632, 316, 2),
                "query": Counts(316, 316, 1),
                "gallery": Counts(316, 316, 1),
            },
        ),
    ),
    licence="not stated with the images",
    source="Gray et al., Evaluating Appearance Models for Recognition, Reacquisition, and "
    "Tracking, PETS 2007",
)
_FILE_NAME = re.compile(r"(\d+)_\d+\.(?:bmp|png|jpe?g)", re.IGNORECASE)


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads one of VIPeR's splits; the even ones query by camera 0, the odd ones by camera 1.

    Raises:
        FileNotFoundError, ValueError: what is wrong with a folder or a split file.
    """
    views = [
        named_images(place, place.folder / camera, _FILE_NAME, "001_45.bmp") for camera in _CAMERAS
    ]
    _check_pairs(place, *([int(image.match[1]) for image in view] for view in views))
    images = [
        Record(str(image.path), person_id, camera_id)
        for camera_id, view in enumerate(views)
        for person_id, image in enumerate(view)
    ]
    return choose_split(place, options, camera_plan(images, query_cameras=(0, 1)))


def _check_pairs(place: Place, first: list[int], second: list[int]) -> None:
    """One missing image would make pairs of different people of all that come after it.

    Raises:
        ValueError: the two folders hold other pairs.
    """
    if first != second:
        odd = sorted(set(first) ^ set(second)) or ["a number that is there twice"]
        raise ValueError(
            f"{place.title}: expected one image of each pair in cam_a and in cam_b under "
            f"{place.folder}; found {len(first)} and {len(second)}, at odds on {odd[0]}. Fetch the "
            "missing images."
        )
