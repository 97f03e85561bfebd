"""Ranked lists of test queries, chosen by average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runner.analysis.report_content.thumbnails import file_uri
from runner.html_report.model_content import BrokenQuery, DomainRankings, RankedList, Thumbnail
from runner.training.evaluation import Embedder
from tasks.retrieval.matching import FloatArray, Matching, inner_products
from tasks.retrieval.ranking import match_ranks, query_scores
from tasks.schema import Record, Split

NUM_RESULTS = 10
"""Gallery images shown for a query."""

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class SplitRanking:
    """Rankings of the gallery of one split by a model.

    Attributes:
        split: queries and gallery.
        queries: [Q, D] features of all queries; zeros if unreadable.
        gallery: [G, D] features of the gallery; zeros if unreadable.
        gallery_readable: [G] bool.
        precision: [Q] average precision in [0, 1]; NaN for an unreadable query or without a match.
    """

    split: Split
    queries: Tensor
    gallery: Tensor
    gallery_readable: Tensor
    precision: FloatArray

    def first_results(self, query: int, count: int = NUM_RESULTS) -> list[int]:
        """Gallery indices of the first results of a query after the camera rule, best first."""
        allowed = self.gallery_readable.clone()
        record = self.split.query[query]
        if self.split.query_by == "image":
            same = [
                (each.person_id, each.camera_id) == (record.person_id, record.camera_id)
                for each in self.split.gallery
            ]
            allowed &= ~torch.tensor(same)
        similarity = (self.gallery @ self.queries[query]).masked_fill(~allowed, -torch.inf)
        order = similarity.argsort(descending=True, stable=True)
        return order[: min(count, int(allowed.sum()))].tolist()


def rank_split(embedder: Embedder, split: Split) -> SplitRanking:
    """Embeds a split and computes the average precision of every query, without re-ranking.

    Raises:
        ValueError: no image can be read.
    """
    if split.query_by == "text":
        gallery, readable = embedder.images(split.gallery)
        queries = embedder.texts([record.caption for record in split.query])
        query_readable = torch.ones(len(queries), dtype=torch.bool)
    else:
        features, is_readable = embedder.images((*split.query, *split.gallery))
        num_queries = len(split.query)
        queries, gallery = features[:num_queries], features[num_queries:]
        query_readable, readable = is_readable[:num_queries], is_readable[num_queries:]
    kept_queries = query_readable.nonzero().flatten()
    kept_gallery = readable.nonzero().flatten()
    precision = np.full(len(split.query), np.nan)
    if len(kept_queries) and len(kept_gallery):
        precision[kept_queries.numpy()] = _precision(
            queries[kept_queries],
            gallery[kept_gallery],
            [split.query[index] for index in kept_queries.tolist()],
            [split.gallery[index] for index in kept_gallery.tolist()],
            by_text=split.query_by == "text",
        )
    return SplitRanking(split, queries, gallery, readable, precision)


def _precision(
    queries: Tensor,
    gallery: Tensor,
    query_records: Sequence[Record],
    gallery_records: Sequence[Record],
    *,
    by_text: bool,
) -> FloatArray:
    """[Q] average precision; NaN without a match."""
    query_ids, gallery_ids = (
        torch.tensor([record.person_id for record in records])
        for records in (query_records, gallery_records)
    )
    query_cameras, gallery_cameras = (
        None if by_text else torch.tensor([record.camera_id for record in records])
        for records in (query_records, gallery_records)
    )
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras)
    precision = np.full(len(queries), np.nan)
    for block in matching.blocks(inner_products(queries, gallery, chunk=_CHUNK), _CHUNK):
        scores = query_scores(block.rows, match_ranks(block))
        precision[block.start + np.unique(block.rows)] = scores[0]
    return precision


def chosen_queries(precision: FloatArray, count: int) -> list[tuple[str, int]]:
    """Chooses the best, median and worst queries.

    Args:
        precision: [Q] average precision; NaN for queries to leave out.
        count: number of queries of each kind.

    Returns:
        Kind and index, each query at most once.
    """
    order = np.argsort(precision, kind="stable")[: int(np.isfinite(precision).sum())]
    middle = max(0, (len(order) - count) // 2)
    groups = {
        "best": order[::-1][:count],
        "median": order[middle : middle + count][::-1],
        "worst": order[:count],
    }
    chosen: dict[int, str] = {}
    for kind in ("best", "worst", "median"):
        for index in groups[kind].tolist():
            chosen.setdefault(index, kind)
    kinds = list(groups)
    ranked = sorted(chosen, key=lambda index: (kinds.index(chosen[index]), -precision[index]))
    return [(chosen[index], index) for index in ranked]


def domain_rankings(name: str, ranking: SplitRanking, count: int) -> DomainRankings:
    """Ranked lists of the best, median and worst queries of a domain."""
    lists = [
        ranked_list(kind, ranking, query)
        for kind, query in chosen_queries(ranking.precision, count)
    ]
    note = "" if lists else "No query has a match in the gallery."
    return DomainRankings(name, tuple(lists), note)


def broken_queries(
    domain: str, before: SplitRanking, after: SplitRanking, count: int
) -> list[BrokenQuery]:
    """Queries with the largest loss of average precision between two models; only real losses."""
    loss = before.precision - after.precision
    order = np.argsort(-loss, kind="stable")
    broken = [index for index in order.tolist() if loss[index] > 0][:count]
    return [
        BrokenQuery(
            domain,
            ranked_list(f"after learning {domain}", before, index),
            ranked_list("after the last domain", after, index),
        )
        for index in broken
    ]


def ranked_list(kind: str, ranking: SplitRanking, query: int) -> RankedList:
    """A query and its first results as thumbnails."""
    split, record = ranking.split, ranking.split.query[query]
    by_text = split.query_by == "text"
    first = Thumbnail(
        "" if by_text else file_uri(record.image_path),
        "query",
        _person(record),
        record.caption if by_text else "",
    )
    results = [
        Thumbnail(
            file_uri(split.gallery[index].image_path),
            "match" if split.gallery[index].person_id == record.person_id else "other",
            _person(split.gallery[index]),
        )
        for index in ranking.first_results(query)
    ]
    title = f"{kind}, AP {100 * ranking.precision[query]:.1f} %"
    return RankedList(title, first, tuple(results))


def _person(record: Record) -> str:
    return f"id {record.person_id} cam {record.camera_id + 1}"
