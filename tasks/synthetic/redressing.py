"""Drawn people on another day: the same body before the same cameras, in other clothes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.synthetic.domains import SyntheticDomain
from tasks.synthetic.people import COLOURED_FIELDS, Person, Wardrobe, draw_person
from tasks.synthetic.studio import camera_of, outfit_rng, person_of, picture_of
from tasks.synthetic.writing import Shoot

KEPT = ("sex", "stature", "girth", "skin", "hair", "hair_colour", "eyewear", "beard")
"""What a person has from day to day; everything else is put on."""

_MAX_DRAWS = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of people, as files in memory.

    Attributes:
        files: N JPEG files, byte for byte those that `writing.write_people` writes.
        person_ids: [N].
        camera_ids: [N] from 0.
        numbers: [N] which of a person's pictures by that camera, from 0.
    """

    files: tuple[bytes, ...]
    person_ids: Ints
    camera_ids: Ints
    numbers: Ints


def redress(person: Person, wardrobe: Wardrobe, rng: np.random.Generator) -> Person:
    """The person in other clothes of a wardrobe; a pure function of the generator's state.

    `KEPT` stays, drawn shades of skin and hair included. All else is as of another person of the
    same sex: the first of `_MAX_DRAWS` whose upper and lower garments differ from the old ones in
    kind and in colour, and whose shoes do in one of both; where a wardrobe is too small for that,
    the one that differs most. Headwear, pattern and bag come as they are drawn, so that as many
    people wear a hat as before.
    """
    best: Person | None = None
    for _ in range(_MAX_DRAWS):
        drawn = draw_person(wardrobe, rng)
        if drawn.sex != person.sex:
            continue
        if best is None or _num_alike(drawn, person) < _num_alike(best, person):
            best = drawn
        if not _num_alike(best, person):
            break
    assert best is not None  # one draw in two has the sex
    rgb = {name: (person if name in KEPT else best).rgb[name] for name in COLOURED_FIELDS}
    return replace(best, rgb=rgb, **{name: getattr(person, name) for name in KEPT})


def _num_alike(one: Person, other: Person) -> int:
    garments = ("upper", "upper_colour", "lower", "lower_colour")
    alike = sum(getattr(one, name) == getattr(other, name) for name in garments)
    return alike + (one.shoes == other.shoes and one.shoes_colour == other.shoes_colour)


def person_in(seed: int, domain: SyntheticDomain, person_id: int, outfit: int) -> Person:
    """The identity with this number in its outfit 0, which it is drawn with, or in another one."""
    person = person_of(seed, domain, person_id)
    if outfit == 0:
        return person
    return redress(person, domain.wardrobe, outfit_rng(seed, domain, person_id, outfit))


def photograph(
    domain: SyntheticDomain, shoot: Shoot, person_ids: Sequence[int], outfit: int
) -> Pictures:
    """All pictures of these people in one outfit, by the domain's cameras.

    Pose, place in the picture, occlusion, light and noise of a picture are those of the same
    picture in any other outfit: nothing but the clothes tells them apart.
    """
    cameras = [
        camera_of(shoot.seed, domain, number, shoot.frame) for number in range(shoot.num_cameras)
    ]
    files: list[bytes] = []
    keys: list[tuple[int, int, int]] = []
    for person_id in person_ids:
        person = person_in(shoot.seed, domain, person_id, outfit)
        for camera_id, camera in enumerate(cameras):
            for number in range(shoot.images_per_camera):
                key = (person_id, camera_id, number)
                picture, _ = picture_of(shoot.seed, domain, person, camera, shoot.frame, key)
                files.append(_jpeg(picture, shoot.jpeg_quality))
                keys.append(key)
    of_people, by_cameras, numbers = np.array(keys, dtype=np.int64).reshape(-1, 3).T
    return Pictures(tuple(files), of_people, by_cameras, numbers)


def _jpeg(picture: npt.NDArray[np.uint8], quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
