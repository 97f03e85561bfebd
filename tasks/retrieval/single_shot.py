"""The single-gallery-shot metric of CUHK03's first protocol: one gallery image of each person.

Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-Identification", CVPR 2014.
The later protocols of CUHK03 rank the whole gallery as Market-1501 does, by
`tasks.retrieval.ranking`: a figure of the one cannot be compared with a figure of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.retrieval.matching import FloatArray, Ids, IntArray, Matching, inner_products
from tasks.retrieval.ranking import MAX_RANK

MATCHES_AT_ONCE = 64

Row = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SingleShotScores:
    """Scores of one single-shot evaluation, as fractions in [0, 1].

    Attributes:
        cmc: [50] float64, cmc[k] is the probability, in the mean over valid queries, that the
            person is among the first k + 1 of a gallery with one image of each; NaN without a
            valid query.
        num_valid_queries: queries with at least one match left in their gallery.
    """

    cmc: FloatArray
    num_valid_queries: int


def evaluate_single_shot(
    query_features: Tensor,
    gallery_features: Tensor,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Ids | None = None,
    gallery_cameras: Ids | None = None,
    *,
    num_draws: int | None = 100,
    seed: int = 0,
    chunk: int = 256,
    device: torch.device | str | None = None,
) -> SingleShotScores:
    """Ranks one image of each person of the gallery, averaged over which image that is.

    The similarity, the ties and the entries that a camera takes out are those of
    `tasks.retrieval.ranking.evaluate_ranking`. From what is left, one image of each person is
    drawn for each query, all images of a person being equally likely and persons independent of
    one another.

    The galleries are drawn anew for each query, from a generator of its own: the draws depend on
    the seed and on the order of the images, not on `chunk`. Beyond the features it holds 4 bytes
    for each of `chunk` x G similarities, and for one query at a time about 40 for each drawn image,
    or some hundreds for each gallery image where nothing is drawn.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids. An id that no query has stands for one more person.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        num_draws: galleries drawn for each query, 100 in the literature. None for the exact
            expectation over all galleries, which has no spread and takes time proportional to the
            number of persons times the number of matches.
        seed: of the draws, at least 0; without effect on the expectation.
        chunk: queries whose similarities are computed together; it changes no draw.
        device: where to compute the similarities; None for the device of the features.

    Raises:
        ValueError: what `evaluate_ranking` refuses, or `num_draws` below 1.
    """
    if num_draws is not None and num_draws < 1:
        raise ValueError(f"num_draws: expected at least 1, or None, got {num_draws}")
    products = inner_products(query_features, gallery_features, chunk=chunk, device=device)
    size = len(query_features), len(gallery_features)
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras, size=size)
    persons = Persons(matching.gallery_ids)
    total, num_valid = np.zeros(MAX_RANK), 0
    for block in matching.blocks(products, chunk):
        rows = block.similarity.cpu().numpy()
        valid, starts = np.unique(block.rows, return_index=True)
        for row, matches in zip(valid, np.split(block.columns, starts[1:]), strict=False):
            if num_draws is None:
                total += expected_curve(rows[row], matches, persons)
            else:
                draws = np.random.default_rng((seed, block.start + int(row)))
                total += drawn_curve(rows[row], matches, persons, num_draws, draws)
        num_valid += len(valid)
    cmc = total / num_valid if num_valid else np.full(MAX_RANK, math.nan)
    return SingleShotScores(cmc, num_valid)


class Persons:
    """A gallery grouped by person, P of them.

    Args:
        gallery_ids: [G] person ids.

    Attributes:
        of: [G] number from 0 of the person of each entry.
        entries: [G] gallery indices, those of a person together.
        counts: [P] entries of each person.
        starts: [P] position in `entries` of the first one of each.
    """

    def __init__(self, gallery_ids: IntArray) -> None:
        _, self.of, self.counts = np.unique(gallery_ids, return_inverse=True, return_counts=True)
        self.entries: IntArray = self.of.argsort(kind="stable")
        self.starts = np.cumsum(self.counts) - self.counts


def drawn_curve(
    row: Row, matches: IntArray, persons: Persons, num_draws: int, draws: np.random.Generator
) -> FloatArray:
    """[50] the share of drawn galleries in which the person is among the first k + 1.

    Args:
        row: [G] similarities.
        matches: [M] gallery indices that the person's image is drawn from, at least one.
        persons: of the gallery.
        num_draws: how many galleries.
        draws: source of the draws.
    """
    offsets = draws.integers(0, persons.counts, (num_draws, len(persons.counts)))
    others = persons.entries[persons.starts + offsets]
    own = draws.choice(matches, (num_draws, 1))
    is_before = _is_before(row, others, own)
    is_before[:, persons.of[matches[0]]] = False
    num_before = is_before.sum(axis=1)
    hits_at = np.bincount(np.minimum(num_before, MAX_RANK), minlength=MAX_RANK + 1)
    return np.cumsum(hits_at[:MAX_RANK]) / num_draws


def expected_curve(row: Row, matches: IntArray, persons: Persons) -> FloatArray:
    """[50] the probability that the person is among the first k + 1 of a drawn gallery.

    Given the person's own image, each other person is before it with a probability of its own, the
    share of its images that are, and independently of the rest. The number of persons before it
    thus has a Poisson binomial distribution, which is built up person by person.

    Args:
        row: [G] similarities.
        matches: [M] gallery indices that the person's image is drawn from, at least one.
        persons: of the gallery.
    """
    curve = np.zeros(MAX_RANK)
    for start in range(0, len(matches), MATCHES_AT_ONCE):
        part = matches[start : start + MATCHES_AT_ONCE]
        is_before = _is_before(row, np.arange(len(row)), part[:, None])
        num_before = [
            np.bincount(persons.of[each], minlength=len(persons.counts)) for each in is_before
        ]
        shares = np.stack(num_before) / persons.counts
        shares[:, persons.of[part[0]]] = 0.0
        curve += np.cumsum(_poisson_binomial(shares), axis=1).sum(axis=0)
    return curve / len(matches)


def _is_before(row: Row, others: IntArray, own: IntArray) -> npt.NDArray[np.bool_]:
    """Whether entries come before the own one in the ranking: equal ones go by their index."""
    return (row[others] > row[own]) | ((row[others] == row[own]) & (others < own))


def _poisson_binomial(shares: FloatArray) -> FloatArray:
    """[M, 50] probability of 0 to 49 successes of trials with the [M, P] probabilities of a row."""
    chances = np.zeros((len(shares), MAX_RANK))
    chances[:, 0] = 1.0
    for share in shares.T[shares.any(axis=0), :, None]:
        moved = chances[:, :-1] * share
        chances *= 1.0 - share
        chances[:, 1:] += moved
    return chances
