"""Random web-like domains in memory, to warm-start a small CLIP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.synthetic.captions import PARTS
from tasks.synthetic.drawing import Frame
from tasks.synthetic.studio import draw_random_domain, map_in_processes, useful_processes
from tasks.text.descriptions import join_parts


@dataclass(frozen=True, slots=True)
class Pool:
    """Images with their captions.

    Attributes:
        images: [N, H, W, 3] uint8 RGB.
        person_ids: [N] int64, contiguous over the whole pool.
        captions: N sentences by kind: "head", "upper", "lower", "foot", "whole" (the four parts
            joined), "caption" (free style), "identity", "clothing".
    """

    images: NDArray[np.uint8]
    person_ids: NDArray[np.int64]
    captions: dict[str, list[str]]


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
    """Draws `num_identities` people in each of `num_domains` random places.

    The places have more varied wardrobes and milder cameras than the benchmark's, and share
    nothing with it but the drawing itself. The result depends on the seed and sizes alone (in
    pixels), not on `num_processes` (None: one per core for a pool that is worth it). More than one
    process needs a main module that is importable, as `multiprocessing` says.
    """
    num_images = num_domains * num_identities * images_per_identity
    if min(num_domains, num_identities, images_per_identity) < 1:
        raise ValueError("a pool needs at least one domain, one identity and one image of each")
    frame = Frame(height, width, supersampling=3)
    jobs = [
        (seed, index, num_identities, images_per_identity, frame) for index in range(num_domains)
    ]
    drawn = map_in_processes(
        draw_random_domain, jobs, num_processes or useful_processes(num_images)
    )
    sentences = [captions for _, domain in drawn for captions in domain]
    kinds = {
        part: [captions.parts[number] for captions in sentences]
        for number, part in enumerate(PARTS)
    }
    kinds["whole"] = [join_parts(captions.parts) for captions in sentences]
    kinds["caption"] = [captions.captions[0] for captions in sentences]
    kinds["identity"] = [captions.identity for captions in sentences]
    kinds["clothing"] = [captions.clothing for captions in sentences]
    person_ids = np.repeat(np.arange(num_domains * num_identities), images_per_identity)
    return Pool(np.concatenate([images for images, _ in drawn]), person_ids, kinds)
