"""In-memory data set of random web-like domains, for the warm start of a small CLIP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.synthetic.captions import Captions
from tasks.synthetic.drawing import Frame
from tasks.synthetic.people import Person
from tasks.synthetic.studio import map_in_processes, render_random_domain, useful_processes


@dataclass(frozen=True, slots=True)
class Pool:
    """Images with their captions.

    Attributes:
        images: [N, H, W, 3] uint8 RGB.
        person_ids: [N] int64, contiguous over the whole pool.
        captions: N sentences by kind: "head", "upper", "lower", "foot", "whole" (the four parts
            joined), "caption" (free style), "identity", "clothing".
        contents: the same sentences in a fixed wording, equal for equal perceived attributes.
        people: the person of each person id.
    """

    images: NDArray[np.uint8]
    person_ids: NDArray[np.int64]
    captions: dict[str, list[str]]
    contents: dict[str, list[str]]
    people: list[Person]


def draw_pool(
    num_domains: int,
    num_identities: int,
    images_per_identity: int,
    seed: int,
    *,
    height: int,
    width: int,
    num_processes: int | None = None,
) -> Pool:
    """Generates images and captions of `num_identities` people in each of `num_domains` domains.

    The random domains have more varied wardrobes and milder cameras than the benchmark's domains
    and share only the renderer with them. The result depends only on the seed and the sizes, not
    on `num_processes`. More than one process requires an importable main module (see
    `multiprocessing`).

    Args:
        num_domains: number of random domains.
        num_identities: number of people per domain.
        images_per_identity: number of images per person.
        seed: seed of all people, cameras and texts.
        height: image height in pixels.
        width: image width in pixels.
        num_processes: number of worker processes; None chooses it by the number of images.

    Raises:
        ValueError: a number of domains, identities or images below 1.
    """
    num_images = num_domains * num_identities * images_per_identity
    if min(num_domains, num_identities, images_per_identity) < 1:
        raise ValueError(
            "expected at least one domain, identity and image per identity, got "
            f"{num_domains}, {num_identities} and {images_per_identity}"
        )
    frame = Frame(height, width, supersampling=3)
    jobs = [
        (seed, index, num_identities, images_per_identity, frame) for index in range(num_domains)
    ]
    domains = map_in_processes(
        render_random_domain, jobs, num_processes or useful_processes(num_images)
    )
    return Pool(
        np.concatenate([domain.images for domain in domains]),
        np.repeat(np.arange(num_domains * num_identities), images_per_identity),
        _by_kind(captions for domain in domains for captions in domain.captions),
        _by_kind(contents for domain in domains for contents in domain.contents),
        [person for domain in domains for person in domain.people],
    )


def _by_kind(texts: Iterable[Captions]) -> dict[str, list[str]]:
    rows = [each.by_kind() for each in texts]
    return {kind: [row[kind] for row in rows] for kind in rows[0]}
