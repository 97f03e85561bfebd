"""HSIC between two features, and its null distribution for independent features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.losses.decoupling import Kernel, centred_kernel
from runner.analysis.synthetic_attributes import Ints


@dataclass(frozen=True)
class Dependence:
    """Dependence between two features.

    Attributes:
        hsic: HSIC of the two features, as in `models.losses.decoupling.hsic`.
        null: HSIC for each of P permutations of the second feature.
        alignment: HSIC(X, Y) / sqrt(HSIC(X, X) * HSIC(Y, Y)) in [0, 1], independent of the scale of
            the features (CKA, Kornblith et al. 2019).
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
    """Computes HSIC of two features of the same images, and its null by permutation of people.

    Under the null, the second feature belongs to other people: people are permuted as blocks, and
    the images of each person among themselves. The null therefore has the same clusters of similar
    images as the data, which a permutation of single images would destroy.

    Args:
        first: [N, D] first feature.
        second: [N, E] second feature.
        person_ids: [N]; every person has the same number of images.
        kernel: kernel of both features.
        num_permutations: number of permutations P >= 1.
        rng: random generator of the permutations.

    Raises:
        ValueError: people have different numbers of images.
    """
    one, other = (centred_kernel(rows, kernel) for rows in (first, second))
    scale = max(len(first) - 1, 1) ** 2
    hsic = float((one * other).sum()) / scale
    norm = (float((one * one).sum()) / scale * (float((other * other).sum()) / scale)) ** 0.5
    null: list[float] = []
    for _ in range(num_permutations):
        order = torch.from_numpy(permuted_images(person_ids, rng))
        null.append(float((one * other[order][:, order]).sum()) / scale)
    return Dependence(hsic, null, hsic / norm if norm > 0 else 0.0)


def permuted_images(person_ids: Ints, rng: np.random.Generator) -> Ints:
    """[N] image indices after permuting people, and the images of each person.

    Raises:
        ValueError: people have different numbers of images.
    """
    _, counts = np.unique(person_ids, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"expected the same number of images per person, got {counts.min()} to {counts.max()}"
        )
    blocks = np.argsort(person_ids, kind="stable").reshape(len(counts), -1)
    moved = rng.permuted(blocks[rng.permutation(len(blocks))], axis=1)
    order = np.empty_like(person_ids)
    order[blocks.ravel()] = moved.ravel()
    return order
