"""Single-gallery-shot evaluation, CUHK03's first protocol: one gallery image per person.

Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-Identification", CVPR 2014.
The later protocols of CUHK03 rank the whole gallery, as Market-1501 does
(`tasks.retrieval.ranking`). Scores under the two protocols are not comparable.
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

MATCH_BLOCK = 64
"""Matches of one query whose exact distributions are computed together."""

Row = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SingleShotScores:
    """Scores of one single-shot evaluation, as fractions in [0, 1].

    Every score is NaN when `num_valid_queries` is 0.

    Attributes:
        mAP: mean over valid queries of the expected reciprocal rank of the match. A gallery has
            exactly one match, so this is both the average precision and the inverse negative
            penalty.
        cmc: [50] float64, cmc[k] is the mean over valid queries of the probability that the match
            is within the first k + 1 ranks.
        num_valid_queries: queries with at least one match left in their gallery.
    """

    mAP: float  # noqa: N815 - the field's spelling
    cmc: FloatArray
    num_valid_queries: int

    def percent(self) -> dict[str, float]:
        """The scores recorded in a result matrix, by metric name, in percent."""
        ranks = {f"R{rank}": 100.0 * float(self.cmc[rank - 1]) for rank in (1, 5, 10)}
        return {"mAP": 100.0 * self.mAP, **ranks, "mINP": 100.0 * self.mAP}


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
    """Ranks galleries with one image per person, averaged over random choices of that image.

    Similarity, ties and the camera rule are those of
    `tasks.retrieval.ranking.evaluate_ranking`. For each query, one of the remaining images of each
    person is drawn uniformly, independently of the other persons.

    Each query has its own random generator. The draws depend on the seed and on the order of the
    images, not on `chunk`. Memory beyond the features: 4 bytes for each of `chunk` x G
    similarities, and for one query at a time about 40 bytes per drawn image, or some hundred bytes
    per gallery image for the exact expectation.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids. An id without a query is one more person.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        num_draws: galleries drawn per query; 100 in the literature. None computes the exact
            expectation over all galleries, which has no variance. Its time is proportional to
            the number of matches times the square of the number of persons.
        seed: seed of the draws, at least 0; unused by the exact expectation.
        chunk: queries whose similarities are computed together; does not change the draws.
        device: where to compute the similarities; None for the device of the features.

    Raises:
        ValueError: for the inputs that `evaluate_ranking` refuses, or `num_draws` below 1.
    """
    if num_draws is not None and num_draws < 1:
        raise ValueError(f"num_draws: expected at least 1, or None, got {num_draws}")
    products = inner_products(query_features, gallery_features, chunk=chunk, device=device)
    size = len(query_features), len(gallery_features)
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras, size=size)
    persons = Persons(matching.gallery_ids)
    total, num_valid = np.zeros(max(MAX_RANK, len(persons.counts))), 0
    for block in matching.blocks(products, chunk):
        rows = block.similarity.cpu().numpy()
        valid, starts = np.unique(block.rows, return_index=True)
        for row, matches in zip(valid, np.split(block.columns, starts[1:]), strict=False):
            if num_draws is None:
                total += exact_rank_distribution(rows[row], matches, persons)
            else:
                rng = np.random.default_rng((seed, block.start + int(row)))
                total += sampled_rank_distribution(rows[row], matches, persons, num_draws, rng)
        num_valid += len(valid)
    if not num_valid:
        return SingleShotScores(math.nan, np.full(MAX_RANK, math.nan), 0)
    distribution = total / num_valid
    mean_reciprocal_rank = float(distribution @ (1.0 / np.arange(1, len(distribution) + 1)))
    return SingleShotScores(mean_reciprocal_rank, np.cumsum(distribution[:MAX_RANK]), num_valid)


class Persons:
    """A gallery grouped by person, with P persons.

    Args:
        gallery_ids: [G] person ids.

    Attributes:
        of: [G] index in 0..P-1 of the person of each entry.
        entries: [G] gallery indices grouped by person.
        counts: [P] number of entries of each person.
        starts: [P] position in `entries` of the first entry of each person.
    """

    def __init__(self, gallery_ids: IntArray) -> None:
        _, self.of, self.counts = np.unique(gallery_ids, return_inverse=True, return_counts=True)
        self.entries: IntArray = self.of.argsort(kind="stable")
        self.starts = np.cumsum(self.counts) - self.counts


def sampled_rank_distribution(
    row: Row, matches: IntArray, persons: Persons, num_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Share of drawn galleries in which the match has each rank.

    Args:
        row: [G] similarities.
        matches: [M] gallery indices of the query's matches, at least one.
        persons: the gallery grouped by person.
        num_draws: number of galleries.
        rng: random generator of the draws.

    Returns:
        [max(50, P)] float64; index k is rank k + 1.
    """
    offsets = rng.integers(0, persons.counts, (num_draws, len(persons.counts)))
    others = persons.entries[persons.starts + offsets]
    match = rng.choice(matches, (num_draws, 1))
    is_before = _is_before(row, others, match)
    is_before[:, persons.of[matches[0]]] = False
    num_before = is_before.sum(axis=1)
    length = max(MAX_RANK, len(persons.counts))
    return np.bincount(num_before, minlength=length) / num_draws


def exact_rank_distribution(row: Row, matches: IntArray, persons: Persons) -> FloatArray:
    """Probability of each rank of the match in a random gallery.

    Given the drawn match, another person is before it with a probability equal to the share of
    that person's images that are, independently of the others. The number of persons before it
    has a Poisson binomial distribution.

    Args:
        row: [G] similarities.
        matches: [M] gallery indices of the query's matches, at least one.
        persons: the gallery grouped by person.

    Returns:
        [max(50, P)] float64; index k is rank k + 1.
    """
    length = max(MAX_RANK, len(persons.counts))
    total = np.zeros(length)
    for start in range(0, len(matches), MATCH_BLOCK):
        part = matches[start : start + MATCH_BLOCK]
        is_before = _is_before(row, np.arange(len(row)), part[:, None])
        num_before = [
            np.bincount(persons.of[each], minlength=len(persons.counts)) for each in is_before
        ]
        probabilities = np.stack(num_before) / persons.counts
        probabilities[:, persons.of[part[0]]] = 0.0
        total += _poisson_binomial(probabilities, length).sum(axis=0)
    return total / len(matches)


def _is_before(row: Row, others: IntArray, match: IntArray) -> npt.NDArray[np.bool_]:
    """Whether entries are ranked before the match; ties are ranked by gallery index."""
    return (row[others] > row[match]) | ((row[others] == row[match]) & (others < match))


def _poisson_binomial(probabilities: FloatArray, length: int) -> FloatArray:
    """[M, length] probability of 0 to length - 1 successes of P trials, given [M, P]."""
    result = np.zeros((len(probabilities), length))
    result[:, 0] = 1.0
    for success in probabilities.T[probabilities.any(axis=0), :, None]:
        moved = result[:, :-1] * success
        result *= 1.0 - success
        result[:, 1:] += moved
    return result
