"""Writes synthetic people to disk in the layout and naming of Market-1501."""

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
from tasks.synthetic.studio import camera_of, captioned_image, person_of

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FIRST_TEST_ID = 1001
"""First test id. Ids, and so appearances, do not depend on the number of training people."""


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """Number and properties of the images of every domain.

    Attributes:
        seed: master seed.
        num_cameras: number of cameras per domain.
        images_per_camera: images of each person by each camera; of test people, the first is a
            query.
        frame: image size in pixels.
        jpeg_quality: JPEG quality in [1, 100].
    """

    seed: int
    num_cameras: int
    images_per_camera: int
    frame: Frame
    jpeg_quality: int


Captioned = tuple[str, int, Captions]
"""File path relative to the domain's folder, person id, texts."""


def write_people(
    folder: Path, domain: SyntheticDomain, settings: RenderSettings, person_ids: Iterable[int]
) -> list[Captioned]:
    """Renders all images of these people as JPEG files in the three subfolders of `folder`."""
    cameras = [
        camera_of(settings.seed, domain, number, settings.frame)
        for number in range(settings.num_cameras)
    ]
    written: list[Captioned] = []
    for person_id in person_ids:
        person = person_of(settings.seed, domain, person_id)
        for camera_id, camera in enumerate(cameras):
            for number in range(settings.images_per_camera):
                key = (person_id, camera_id, number)
                image, captions = captioned_image(
                    settings.seed, domain, person, camera, settings.frame, key
                )
                path = f"{_part(person_id, number)}/{_file_name(*key)}"
                Image.fromarray(image).save(
                    folder / path, quality=settings.jpeg_quality, subsampling=0
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
    """Writes captions in the format of CUHK-PEDES, with identity and clothing texts added."""
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
    """Writes the true attributes (words and rendered colours) of each person by id."""
    people: Mapping[str, Any] = {
        str(person_id): asdict(person_of(seed, domain, person_id)) for person_id in person_ids
    }
    _write_json(path, people)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")
