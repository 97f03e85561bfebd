"""VIPeR: 632 people, one image by each of two cameras.

`cam_a/` and `cam_b/` contain files like `001_45.bmp`: pair 1, viewpoint 45 degrees. Pair numbers
have gaps, so the person id is the index of the pair in sorted order, from 0. Half of the people are
for training. Ten random draws, each with queries by either camera, give 20 splits.
Gray, Brennan, Tao, "Evaluating Appearance Models for Recognition, Reacquisition, and Tracking",
PETS 2007.
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


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one split of VIPeR; queries are by camera 0 in even splits, camera 1 in odd ones.

    Raises:
        FileNotFoundError, ValueError: a folder or the split file is missing or invalid.
    """
    views = [
        named_images(dataset, dataset.folder / camera, _FILE_NAME, "001_45.bmp")
        for camera in _CAMERAS
    ]
    _check_pairs(dataset, *([int(image.match[1]) for image in view] for view in views))
    images = [
        Record(str(image.path), person_id, camera_id)
        for camera_id, view in enumerate(views)
        for person_id, image in enumerate(view)
    ]
    return choose_split(dataset, options, camera_plan(images, query_cameras=(0, 1)))


def _check_pairs(dataset: LocatedDataset, first: list[int], second: list[int]) -> None:
    """Check that both folders contain the same pairs.

    A missing image would shift the ids of all following pairs.

    Raises:
        ValueError: the folders contain different pairs.
    """
    if first != second:
        different = sorted(set(first) ^ set(second)) or ["a repeated number"]
        raise ValueError(
            f"{dataset.title}: expected one image of each pair in cam_a and in cam_b under "
            f"{dataset.folder}; found {len(first)} and {len(second)} images, which differ in "
            f"{different[0]}. Download the missing images."
        )
