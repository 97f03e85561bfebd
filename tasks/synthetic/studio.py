"""Draws and describes the people of a domain, each picture a function of integers alone.

Seeds are (master seed, stream, domain, ...): streams keep people, cameras, pictures and captions
apart, so that one more picture or another caption changes nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.synthetic.captions import Captions, write_captions
from tasks.synthetic.domains import SyntheticDomain, random_domain
from tasks.synthetic.drawing import Camera, Frame, draw_picture, make_camera
from tasks.synthetic.people import Person, draw_person

Drawn = TypeVar("Drawn")

_PERSON, _CAMERA, _PICTURE, _CAPTION, _PLACE, _OUTFIT = range(1, 7)
_NUM_WEB_CAMERAS = 8


def person_of(seed: int, domain: SyntheticDomain, person_id: int) -> Person:
    """The identity with this number in the domain."""
    rng = np.random.default_rng([seed, _PERSON, domain.index, person_id])
    return draw_person(domain.wardrobe, rng)


def outfit_rng(
    seed: int, domain: SyntheticDomain, person_id: int, outfit: int
) -> np.random.Generator:
    """What an outfit of this identity, other than the one it is drawn with, is chosen by."""
    return np.random.default_rng([seed, _OUTFIT, domain.index, person_id, outfit])


def camera_of(seed: int, domain: SyntheticDomain, camera_id: int, frame: Frame) -> Camera:
    """The camera with this number in the domain."""
    rng = np.random.default_rng([seed, _CAMERA, domain.index, camera_id])
    return make_camera(domain.look, frame, rng)


def picture_of(
    seed: int,
    domain: SyntheticDomain,
    person: Person,
    camera: Camera,
    frame: Frame,
    key: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], Captions]:
    """One picture [H, W, 3] and its sentences; `key` is (person, camera, image number)."""
    picture_rng = np.random.default_rng([seed, _PICTURE, domain.index, *key])
    caption_rng = np.random.default_rng([seed, _CAPTION, domain.index, *key])
    picture = draw_picture(person, camera, domain.look, frame, picture_rng)
    return picture, write_captions(person, caption_rng)


def draw_random_domain(
    seed: int, index: int, num_identities: int, images_per_identity: int, frame: Frame
) -> tuple[NDArray[np.uint8], list[Captions]]:
    """A random place: pictures [N, H, W, 3] in person order, the cameras taken in turn."""
    domain = random_domain(index, np.random.default_rng([seed, _PLACE, index]))
    cameras = [camera_of(seed, domain, number, frame) for number in range(_NUM_WEB_CAMERAS)]
    pictures: list[NDArray[np.uint8]] = []
    captions: list[Captions] = []
    for position in range(num_identities * images_per_identity):
        person_id, number = divmod(position, images_per_identity)
        person = person_of(seed, domain, person_id)
        camera_id = position % _NUM_WEB_CAMERAS
        key = (person_id, camera_id, number)
        picture, sentences = picture_of(seed, domain, person, cameras[camera_id], frame, key)
        pictures.append(picture)
        captions.append(sentences)
    return np.stack(pictures), captions


def map_in_processes(
    function: Callable[..., Drawn], jobs: Iterable[tuple[Any, ...]], num_processes: int
) -> list[Drawn]:
    """`function(*job)` for every job in order, by spawned processes if more than one is asked.

    Spawned, not forked: the caller may hold threads (torch, Ray) that a fork would not survive.
    """
    listed = list(jobs)
    if min(num_processes, len(listed)) <= 1:
        return [function(*job) for job in listed]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(listed)), mp_context=context) as executor:
        return [future.result() for future in [executor.submit(function, *job) for job in listed]]


def useful_processes(num_images: int) -> int:
    """Processes worth starting: below a thousand pictures one is quicker than two are started."""
    return 1 if num_images < 1000 else min(os.cpu_count() or 1, 16)
