"""Writes drawn people to disk in the layout and naming of Market-1501."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.synthetic.captions import Captions
from tasks.synthetic.domains import SyntheticDomain
from tasks.synthetic.drawing import Frame
from tasks.synthetic.studio import camera_of, person_of, picture_of

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FIRST_TEST_ID = 1001
"""Test people keep their numbers, and so their looks, whatever the number of training people."""


@dataclass(frozen=True, slots=True)
class Shoot:
    """What is photographed in every domain.

    Attributes:
        seed: master seed.
        num_cameras: cameras of a domain.
        images_per_camera: pictures of each person by each camera; the first is a test query.
        frame: picture size in pixels.
        jpeg_quality: 1..100.
    """

    seed: int
    num_cameras: int
    images_per_camera: int
    frame: Frame
    jpeg_quality: int


Captioned = tuple[str, int, Captions]
"""File path relative to the domain's folder, person id, sentences."""


def write_people(
    folder: Path, domain: SyntheticDomain, shoot: Shoot, person_ids: Iterable[int]
) -> list[Captioned]:
    """Draws all pictures of these people into the three folders under `folder`, as JPEG files."""
    cameras = [
        camera_of(shoot.seed, domain, number, shoot.frame) for number in range(shoot.num_cameras)
    ]
    written: list[Captioned] = []
    for person_id in person_ids:
        person = person_of(shoot.seed, domain, person_id)
        for camera_id, camera in enumerate(cameras):
            for number in range(shoot.images_per_camera):
                key = (person_id, camera_id, number)
                picture, captions = picture_of(shoot.seed, domain, person, camera, shoot.frame, key)
                path = f"{_part(person_id, number)}/{_file_name(*key)}"
                Image.fromarray(picture).save(
                    folder / path, quality=shoot.jpeg_quality, subsampling=0
                )
                written.append((path, person_id, captions))
    return written


def _part(person_id: int, number: int) -> str:
    if person_id < FIRST_TEST_ID:
        return TRAIN
    return QUERY if number == 0 else GALLERY


def _file_name(person_id: int, camera_id: int, number: int) -> str:
    frame_number = 100 * person_id + 10 * camera_id + number
    return f"{person_id:04d}_c{camera_id + 1}s1_{frame_number:06d}_{number + 1:02d}.jpg"


def write_captions_file(path: Path, written: Iterable[Captioned]) -> None:
    """Free captions as CUHK-PEDES lists them, with the identity and clothing sentences beside."""
    entries = [
        {
            "file_path": file_path,
            "id": person_id,
            "split": "train" if person_id < FIRST_TEST_ID else "test",
            "captions": list(captions.captions),
            "identity": captions.identity,
            "clothing": captions.clothing,
        }
        for file_path, person_id, captions in written
    ]
    _write_json(path, entries)


def write_attributes_file(
    path: Path, seed: int, domain: SyntheticDomain, person_ids: Iterable[int]
) -> None:
    """The truth about each person, by person id: words and drawn colours."""
    people: Mapping[str, Any] = {
        str(person_id): asdict(person_of(seed, domain, person_id)) for person_id in person_ids
    }
    _write_json(path, people)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")
