"""Expected scores of a random ranking, the baseline of a retrieval evaluation."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.retrieval.matching import RankingProtocol
from tasks.schema import Domain, Split


@dataclass(frozen=True)
class ChanceScores:
    """Expected scores of a random ranking, as fractions in [0, 1]; NaN without a valid query.

    Attributes:
        mAP: expected mean average precision.
        R1: expected rank-1 accuracy.
    """

    mAP: float  # noqa: N815 - the field's spelling
    R1: float


def chance_scores(split: Split, protocol: RankingProtocol = "standard") -> ChanceScores:
    """Exact expectation over all permutations of each query's gallery, equally likely.

    The camera rule is that of `tasks.retrieval.ranking.evaluate_ranking`: with image queries, the
    images of the query's person by the query's camera are removed from its gallery. Queries
    without a remaining match are excluded. With R matches among the M remaining entries, the
    expected rank-1 accuracy is R / M. In a single-shot gallery, M is the number of persons and R
    is 1.
    """
    by_person = Counter(record.person_id for record in split.gallery)
    by_camera = Counter((record.person_id, record.camera_id) for record in split.gallery)
    precisions: list[float] = []
    firsts: list[float] = []
    for query in split.query:
        removed = by_camera[query.person_id, query.camera_id] if split.query_by == "image" else 0
        num_left = len(split.gallery) - removed
        num_matches = by_person[query.person_id] - removed
        if num_matches:
            if protocol == "single_gallery_shot":
                num_left, num_matches = len(by_person), 1
            precisions.append(expected_average_precision(num_matches, num_left))
            firsts.append(num_matches / num_left)
    return ChanceScores(_mean(precisions), _mean(firsts))


def expected_average_precision(num_matches: int, num_gallery: int) -> float:
    """Expected average precision of a random ranking of M entries with R matches.

    With H the M-th harmonic number, it is (H + (R - 1) / (M - 1) * (M - H)) / M, because
    (k - 1)(R - 1) / (M - 1) other matches are expected before a match at rank k.
    """
    harmonic = _harmonic_number(num_gallery)
    others = (num_matches - 1) / max(num_gallery - 1, 1)
    return (harmonic + others * (num_gallery - harmonic)) / num_gallery


def chance_average(
    domains: Sequence[Domain], protocol: RankingProtocol = "standard"
) -> dict[str, float | None]:
    """Mean chance scores of the domains' test splits, in percent; None without a valid query."""
    scores = [chance_scores(domain.test, protocol) for domain in domains]
    values = {"mAP": [each.mAP for each in scores], "R1": [each.R1 for each in scores]}
    means = {name: _mean(per_domain) for name, per_domain in values.items()}
    return {name: None if math.isnan(mean) else 100.0 * mean for name, mean in means.items()}


@functools.cache
def _harmonic_number(number: int) -> float:
    return math.fsum(1 / rank for rank in range(1, number + 1))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
