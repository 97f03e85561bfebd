"""The same search with and without a change of clothes between query and gallery."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from runner.analysis.disentanglement.features import unit
from runner.analysis.drawn_attributes import Ints
from tasks.retrieval.random_baseline import chance_scores
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import Record, Split

SHOWN = ("R1", "mAP")
TRUTH = MappingProxyType({"identity": "true identity", "clothing": "true clothing"})
"""Features made of the truth, by group: what can be reached, and what clothes alone are worth."""


def search(
    queries: Mapping[str, Tensor],
    gallery: Mapping[str, Tensor],
    person_ids: Ints,
    camera_ids: Ints,
    is_query: np.ndarray,
) -> dict[str, dict[str, float]]:
    """R1 and mAP in percent by feature, cosine, image against image; "chance" beside them.

    The first image of each person by each camera is a query, all others are the gallery; what the
    query's camera took of its person is left out (Market-1501 protocol).

    Args:
        queries: [N, D] by feature, of which the rows of queries count.
        gallery: [N, D] by feature, of which all other rows count; the same images in the same
            order, in these clothes or in others.
        person_ids: [N].
        camera_ids: [N].
        is_query: [N] bool.
    """
    asked, searched = (torch.from_numpy(rows) for rows in (is_query, ~is_query))
    people = person_ids[is_query], person_ids[~is_query]
    cameras = camera_ids[is_query], camera_ids[~is_query]
    found: dict[str, dict[str, float]] = {}
    for name, rows in queries.items():
        scores = evaluate_ranking(
            unit(rows[asked]), unit(gallery[name][searched]), *people, *cameras
        ).percent()
        found[name] = {metric: scores[metric] for metric in SHOWN}
    query, searchable = (_records(*each) for each in zip(people, cameras, strict=True))
    chance = chance_scores(Split(query, searchable))
    return found | {"chance": {"R1": 100 * chance.R1, "mAP": 100 * chance.mAP}}


def _records(person_ids: Ints, camera_ids: Ints) -> tuple[Record, ...]:
    pairs = zip(person_ids.tolist(), camera_ids.tolist(), strict=True)
    return tuple(Record("", person_id, camera_id) for person_id, camera_id in pairs)
