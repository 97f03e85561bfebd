"""What a ranking drawn at random scores on average: the foot of every scale of scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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


def chance_scores(split: Split) -> ChanceScores:
    """Exact expectation over all orders of each query's gallery, all equally likely.

    The protocol is that of `tasks.retrieval.ranking.evaluate_ranking`: with image queries, what
    the query's camera took of its person is taken out of its gallery; a query without a match left
    is not counted. With R matches among the M entries left, and H the M-th harmonic number,

        E[AP] = (H + (R - 1) / (M - 1) * (M - H)) / M        E[R1] = R / M

    since a match at rank k has on average (k - 1)(R - 1) / (M - 1) others before it.
    """
    by_person = Counter(record.person_id for record in split.gallery)
    by_camera = Counter((record.person_id, record.camera_id) for record in split.gallery)
    harmonic = [0.0]
    for rank in range(1, len(split.gallery) + 1):
        harmonic.append(harmonic[-1] + 1 / rank)
    precisions: list[float] = []
    firsts: list[float] = []
    for query in split.query:
        seen = by_camera[query.person_id, query.camera_id] if split.query_by == "image" else 0
        num_left = len(split.gallery) - seen
        num_matches = by_person[query.person_id] - seen
        if num_matches:
            others = (num_matches - 1) / max(num_left - 1, 1)
            first = harmonic[num_left]
            precisions.append((first + others * (num_left - first)) / num_left)
            firsts.append(num_matches / num_left)
    return ChanceScores(_mean(precisions), _mean(firsts))


def chance_average(domains: Sequence[Domain]) -> dict[str, float | None]:
    """Chance on the test identities in percent, mean over domains; None where there is none."""
    found = [chance_scores(domain.test) for domain in domains]
    values = {"mAP": [each.mAP for each in found], "R1": [each.R1 for each in found]}
    means = {name: _mean(scores) for name, scores in values.items()}
    return {name: None if math.isnan(mean) else 100.0 * mean for name, mean in means.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
