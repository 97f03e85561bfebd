"""Renders and describes the people of a domain; each image is a function of integers only.

Seeds are (master seed, stream, domain, ...). People, cameras, images and captions have separate
streams, so that additional images or captions do not change others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.synthetic.captions import Captions, write_captions, write_contents
from tasks.synthetic.domains import SyntheticDomain, random_domain
from tasks.synthetic.drawing import Camera, Frame, make_camera, render_image
from tasks.synthetic.people import Person, sample_look_alike, sample_person

Result = TypeVar("Result")

_PERSON, _CAMERA, _IMAGE, _CAPTION, _DOMAIN, _OUTFIT, _FAMILY = range(1, 8)
_NUM_WEB_CAMERAS = 8


def person_of(seed: int, domain: SyntheticDomain, person_id: int) -> Person:
    """The identity with this id in the domain."""
    rng = np.random.default_rng([seed, _PERSON, domain.index, person_id])
    if domain.family_size == 1:
        return sample_person(domain.wardrobe, rng)
    family = (person_id - 1) // domain.family_size
    model_rng = np.random.default_rng([seed, _FAMILY, domain.index, family])
    return sample_look_alike(sample_person(domain.wardrobe, model_rng), domain.wardrobe, rng)


def outfit_rng(
    seed: int, domain: SyntheticDomain, person_id: int, outfit: int
) -> np.random.Generator:
    """Random generator of an additional outfit of this identity."""
    return np.random.default_rng([seed, _OUTFIT, domain.index, person_id, outfit])


def camera_of(seed: int, domain: SyntheticDomain, camera_id: int, frame: Frame) -> Camera:
    """The camera with this id in the domain."""
    rng = np.random.default_rng([seed, _CAMERA, domain.index, camera_id])
    return make_camera(domain.look, frame, rng)


def captioned_image(
    seed: int,
    domain: SyntheticDomain,
    person: Person,
    camera: Camera,
    frame: Frame,
    key: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], Captions]:
    """Renders an image [H, W, 3] and its texts; `key` is (person, camera, image number)."""
    image_rng = np.random.default_rng([seed, _IMAGE, domain.index, *key])
    image = render_image(person, camera, domain.look, frame, image_rng)
    return image, write_captions(person, _caption_rng(seed, domain, key))


def _caption_rng(
    seed: int, domain: SyntheticDomain, key: tuple[int, int, int]
) -> np.random.Generator:
    return np.random.default_rng([seed, _CAPTION, domain.index, *key])


@dataclass(frozen=True, slots=True)
class RandomDomain:
    """Images and texts of a random domain, in person order.

    Attributes:
        images: [N, H, W, 3] uint8 RGB.
        captions: N texts.
        contents: the same N texts in a fixed wording.
        people: the person of each identity.
    """

    images: NDArray[np.uint8]
    captions: list[Captions]
    contents: list[Captions]
    people: list[Person]


def render_random_domain(
    seed: int, index: int, num_identities: int, images_per_identity: int, frame: Frame
) -> RandomDomain:
    """Renders a random domain; the images of a person are taken by its cameras in turn."""
    domain = random_domain(index, np.random.default_rng([seed, _DOMAIN, index]))
    cameras = [camera_of(seed, domain, number, frame) for number in range(_NUM_WEB_CAMERAS)]
    people = [person_of(seed, domain, person_id) for person_id in range(num_identities)]
    images: list[NDArray[np.uint8]] = []
    captions: list[Captions] = []
    contents: list[Captions] = []
    for position in range(num_identities * images_per_identity):
        person_id, number = divmod(position, images_per_identity)
        camera_id = position % _NUM_WEB_CAMERAS
        key = (person_id, camera_id, number)
        person, camera = people[person_id], cameras[camera_id]
        image, sentences = captioned_image(seed, domain, person, camera, frame, key)
        images.append(image)
        captions.append(sentences)
        contents.append(write_contents(person, _caption_rng(seed, domain, key)))
    return RandomDomain(np.stack(images), captions, contents, people)


def map_in_processes(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], num_processes: int
) -> list[Result]:
    """Computes `function(*job)` for every job, in order, in spawned processes if more than one.

    Processes are spawned, not forked, because the caller may have threads (torch, Ray).
    """
    listed = list(jobs)
    if min(num_processes, len(listed)) <= 1:
        return [function(*job) for job in listed]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(listed)), mp_context=context) as executor:
        return [future.result() for future in [executor.submit(function, *job) for job in listed]]


def useful_processes(num_images: int) -> int:
    """Number of processes to use: starting a second one only pays off from 1,000 images."""
    return 1 if num_images < 1000 else min(len(os.sched_getaffinity(0)), 16)
