"""Retrieval with and without a change of clothes between query and gallery."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from runner.analysis.disentanglement.features import unit
from runner.analysis.synthetic_attributes import Ints
from tasks.retrieval.random_baseline import chance_scores
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import Record, Split

SHOWN = ("R1", "mAP")
TRUTH = MappingProxyType({"identity": "true identity", "clothing": "true clothing"})
"""Names of the ground-truth features by group: upper bound, and value of clothes alone."""


def search(
    queries: Mapping[str, Tensor],
    gallery: Mapping[str, Tensor],
    person_ids: Ints,
    camera_ids: Ints,
    is_query: np.ndarray,
) -> dict[str, dict[str, float]]:
    """R1 and mAP in percent of image retrieval by cosine similarity, per feature and for "chance".

    The first image of each person by each camera is a query, all others are the gallery. Gallery
    images of the query's person by the query's camera are ignored (Market-1501 protocol).

    Args:
        queries: [N, D] per feature; only the rows of queries are used.
        gallery: [N, D] per feature; only the other rows are used. The images are the same and in
            the same order, in the same or in other clothes.
        person_ids: [N] person of each image.
        camera_ids: [N] camera of each image.
        is_query: [N] bool.
    """
    query_rows, gallery_rows = (torch.from_numpy(rows) for rows in (is_query, ~is_query))
    people = person_ids[is_query], person_ids[~is_query]
    cameras = camera_ids[is_query], camera_ids[~is_query]
    results: dict[str, dict[str, float]] = {}
    for name, rows in queries.items():
        scores = evaluate_ranking(
            unit(rows[query_rows]), unit(gallery[name][gallery_rows]), *people, *cameras
        ).percent()
        results[name] = {metric: scores[metric] for metric in SHOWN}
    query_records, gallery_records = (_records(*each) for each in zip(people, cameras, strict=True))
    chance = chance_scores(Split(query_records, gallery_records))
    return results | {"chance": {"R1": 100 * chance.R1, "mAP": 100 * chance.mAP}}


def _records(person_ids: Ints, camera_ids: Ints) -> tuple[Record, ...]:
    pairs = zip(person_ids.tolist(), camera_ids.tolist(), strict=True)
    return tuple(Record("", person_id, camera_id) for person_id, camera_id in pairs)
