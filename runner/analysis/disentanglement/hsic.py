"""HSIC between two features, beside what it is where one has nothing to do with the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.losses.decoupling import Kernel, centred_kernel
from runner.analysis.drawn_attributes import Ints


@dataclass(frozen=True)
class Dependence:
    """One measurement.

    Attributes:
        hsic: what `models.losses.decoupling.hsic` says of the two features.
        null: the same for each of P shufflings of the second feature.
        alignment: hsic / sqrt(hsic of the first with itself * of the second with itself), in
            [0, 1]: it does not depend on how far a feature spreads (Kornblith et al. 2019, CKA).
    """

    hsic: float
    null: list[float]
    alignment: float


def dependence(
    first: Tensor,
    second: Tensor,
    person_ids: Ints,
    kernel: Kernel,
    num_permutations: int,
    rng: np.random.Generator,
) -> Dependence:
    """HSIC of two features of the same images, and its null by permutation of people.

    Under the null the second feature is that of other people's images: people change places as a
    whole, and the images of each among themselves. So the null has the same clusters of alike
    images as the data, which images shuffled one by one would not have.

    Args:
        first: [N, D].
        second: [N, E].
        person_ids: [N]; every person has the same number of images.
        kernel: of both features.
        num_permutations: P >= 1.
        rng: draws the permutations.

    Raises:
        ValueError: people differ in their numbers of images.
    """
    one, other = (centred_kernel(rows, kernel) for rows in (first, second))
    scale = max(len(first) - 1, 1) ** 2
    found = float((one * other).sum()) / scale
    own = float((one * one).sum()) / scale, float((other * other).sum()) / scale
    null: list[float] = []
    for _ in range(num_permutations):
        order = torch.from_numpy(shuffled(person_ids, rng))
        null.append(float((one * other[order][:, order]).sum()) / scale)
    spread = (own[0] * own[1]) ** 0.5
    return Dependence(found, null, found / spread if spread > 0 else 0.0)


def shuffled(person_ids: Ints, rng: np.random.Generator) -> Ints:
    """[N] images in the places of others: people permuted, and the images of each.

    Raises:
        ValueError: people differ in their numbers of images.
    """
    _, counts = np.unique(person_ids, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"expected as many images of every person; got {counts.min()} to {counts.max()}"
        )
    blocks = np.argsort(person_ids, kind="stable").reshape(len(counts), -1)
    moved = rng.permuted(blocks[rng.permutation(len(blocks))], axis=1)
    order = np.empty_like(person_ids)
    order[blocks.ravel()] = moved.ravel()
    return order
