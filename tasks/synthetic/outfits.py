"""Images of synthetic people in other clothes: same body, same cameras."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.synthetic.domains import SyntheticDomain
from tasks.synthetic.people import COLOURED_FIELDS, Person, Wardrobe, sample_person
from tasks.synthetic.studio import camera_of, captioned_image, outfit_rng, person_of
from tasks.synthetic.writing import RenderSettings

KEPT = ("sex", "stature", "girth", "skin", "hair", "hair_colour", "eyewear", "beard")
"""Permanent attributes of a person; all others change with the clothes."""

_MAX_DRAWS = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OutfitImages:
    """Images of people in one outfit, as JPEG files in memory.

    Attributes:
        files: N JPEG files; for outfit 0, identical to those of `writing.write_people`.
        person_ids: [N] person ids.
        camera_ids: [N] zero-based camera ids.
        numbers: [N] zero-based index among the images of a person by that camera.
    """

    files: tuple[bytes, ...]
    person_ids: Ints
    camera_ids: Ints
    numbers: Ints


def change_outfit(person: Person, wardrobe: Wardrobe, rng: np.random.Generator) -> Person:
    """Samples other clothes for a person from a wardrobe, determined by the state of `rng`.

    The attributes in `KEPT` and the rendered colours of skin and hair stay the same. All others
    are those of another random person of the same sex: the first of `_MAX_DRAWS` samples whose
    upper and lower garments differ in type and colour, and whose shoes differ in type or colour.
    If the wardrobe is too small, the most different sample is used. Headwear, pattern and bag are
    not constrained, so that their distribution does not change.
    """
    best: Person | None = None
    for _ in range(_MAX_DRAWS):
        sample = sample_person(wardrobe, rng)
        if sample.sex != person.sex:
            continue
        if best is None or _num_equal(sample, person) < _num_equal(best, person):
            best = sample
        if not _num_equal(best, person):
            break
    assert best is not None  # half of the samples have the same sex
    rgb = {name: (person if name in KEPT else best).rgb[name] for name in COLOURED_FIELDS}
    return replace(best, rgb=rgb, **{name: getattr(person, name) for name in KEPT})


def _num_equal(one: Person, other: Person) -> int:
    garments = ("upper", "upper_colour", "lower", "lower_colour")
    num_equal = sum(getattr(one, name) == getattr(other, name) for name in garments)
    return num_equal + (one.shoes == other.shoes and one.shoes_colour == other.shoes_colour)


def person_in(seed: int, domain: SyntheticDomain, person_id: int, outfit: int) -> Person:
    """The identity with this id in its original outfit (0) or in another one."""
    person = person_of(seed, domain, person_id)
    if outfit == 0:
        return person
    return change_outfit(person, domain.wardrobe, outfit_rng(seed, domain, person_id, outfit))


def render_outfit(
    domain: SyntheticDomain, settings: RenderSettings, person_ids: Sequence[int], outfit: int
) -> OutfitImages:
    """Renders all images of these people in one outfit, by the domain's cameras.

    Pose, position, occlusion, light and noise of an image are the same in every outfit: only the
    clothes differ.
    """
    cameras = [
        camera_of(settings.seed, domain, number, settings.frame)
        for number in range(settings.num_cameras)
    ]
    files: list[bytes] = []
    keys: list[tuple[int, int, int]] = []
    for person_id in person_ids:
        person = person_in(settings.seed, domain, person_id, outfit)
        for camera_id, camera in enumerate(cameras):
            for number in range(settings.images_per_camera):
                key = (person_id, camera_id, number)
                image, _ = captioned_image(
                    settings.seed, domain, person, camera, settings.frame, key
                )
                files.append(_jpeg(image, settings.jpeg_quality))
                keys.append(key)
    people, cameras_of_images, numbers = np.array(keys, dtype=np.int64).reshape(-1, 3).T
    return OutfitImages(tuple(files), people, cameras_of_images, numbers)


def _jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
