"""Exact retrieval scores (mAP, mINP, CMC) against the whole gallery, in bounded memory.

AP, INP and CMC depend only on the ranks of a query's matches. A query has few matches in a large
gallery, so it is usually faster to count the gallery entries before each match than to sort.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.retrieval.matching import (
    Block,
    FloatArray,
    Ids,
    IntArray,
    Matching,
    SimilarityRows,
    inner_products,
    to_device,
)

MAX_RANK = 50
"""Length of the cumulative matching characteristic (CMC)."""

MAX_COUNTED_SHARE = 1 / 128
"""Largest share of matches in the gallery for which ranks are counted. With more matches, sorting
the row is faster (measured for galleries of 1,000 to 82,161 images on two cores)."""


@dataclass(frozen=True, eq=False)
class RankingScores:
    """Scores of one retrieval evaluation, as fractions in [0, 1].

    Every score is NaN when `num_valid_queries` is 0.

    Attributes:
        mAP: mean over valid queries of the average precision (mean of the precision at each
            match, no interpolation).
        mINP: mean over valid queries of the inverse negative penalty: number of matches divided
            by the rank of the last match (Ye et al., "Deep Learning for Person
            Re-identification: A Survey and Outlook", 2021).
        cmc: [50] float64, cmc[k] is the share of valid queries with a match in the first k + 1
            ranks; constant beyond the size of the gallery.
        num_valid_queries: queries with at least one match left in their gallery.
    """

    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    cmc: FloatArray
    num_valid_queries: int

    @property
    def R1(self) -> float:  # noqa: N802 - the field's spelling
        """Rank-1 accuracy."""
        return float(self.cmc[0])

    @property
    def R5(self) -> float:  # noqa: N802
        """Rank-5 accuracy."""
        return float(self.cmc[4])

    @property
    def R10(self) -> float:  # noqa: N802
        """Rank-10 accuracy."""
        return float(self.cmc[9])

    def percent(self) -> dict[str, float]:
        """The scores recorded in a result matrix, by metric name, in percent."""
        fractions = {
            "mAP": self.mAP,
            "R1": self.R1,
            "R5": self.R5,
            "R10": self.R10,
            "mINP": self.mINP,
        }
        return {name: 100.0 * value for name, value in fractions.items()}


def evaluate_ranking(
    query_features: Tensor,
    gallery_features: Tensor,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Ids | None = None,
    gallery_cameras: Ids | None = None,
    *,
    chunk: int = 256,
    device: torch.device | str | None = None,
) -> RankingScores:
    """Ranks the gallery by similarity to each query and scores the rankings.

    The similarity is the inner product of the features, in float32 or float64; for cosine
    similarity, L2-normalise the features first. Ties are ranked by gallery index. With cameras,
    images of the query's person by the query's camera are removed from its gallery (Market-1501
    protocol); without cameras, none are (text-to-image protocol). Queries without a remaining
    match are excluded.

    Precisions are exact and accumulated in float64. Memory beyond the features: about 5 bytes for
    each of `chunk` x G similarities, independent of Q; 30 bytes on a GPU, or if more than
    `MAX_COUNTED_SHARE` of the gallery are matches. `chunk` and `device` do not change scores,
    except that the last bit of a similarity may be rounded differently.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: number of queries ranked together.
        device: where to compute; None for the device of the features.

    Raises:
        ValueError: an empty set, mismatched shapes, features or products that are not finite,
            cameras of only one side, or a chunk below 1.
    """
    products = inner_products(query_features, gallery_features, chunk=chunk, device=device)
    size = len(query_features), len(gallery_features)
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras, size=size)
    return _scores(products, matching, chunk)


def rank_rows(
    similarity_rows: SimilarityRows,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Ids | None = None,
    gallery_cameras: Ids | None = None,
    *,
    chunk: int = 256,
) -> RankingScores:
    """Scores rankings by similarities that are given in blocks of rows.

    Equals `evaluate_ranking` for similarities other than inner products: same protocol and ties.
    Computes on the device of the blocks.

    Args:
        similarity_rows: similarity_rows(start, stop) returns the [stop - start, G] finite float
            similarities of these queries to the whole gallery; greater is more similar. It is
            called once per block, in order. The result is modified in place and not read after
            the next call, so one buffer can serve all calls.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: number of queries per block.

    Raises:
        ValueError: an empty set, mismatched shapes, similarities that are not finite, cameras
            of only one side, or a chunk below 1.
    """
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _scores(similarity_rows, matching, chunk)


def match_ranks(block: Block) -> IntArray:
    """[M] zero-based rank of each match of a block in its query's ranking."""
    similarity, rows, columns = block.similarity, block.rows, block.columns
    if similarity.device.type != "cpu":
        return ranks_by_sorting(similarity, rows, columns)
    num_matches = np.bincount(rows, minlength=len(similarity))
    is_sorted = num_matches > MAX_COUNTED_SHARE * similarity.shape[1]
    sorted_rows = np.flatnonzero(is_sorted)
    by_sorting = is_sorted[rows]
    ranks = np.empty_like(columns)
    ranks[~by_sorting] = ranks_by_counting(similarity, rows[~by_sorting], columns[~by_sorting])
    if len(sorted_rows):
        within = np.searchsorted(sorted_rows, rows[by_sorting])
        ranks[by_sorting] = ranks_by_sorting(similarity[sorted_rows], within, columns[by_sorting])
    return ranks


def ranks_by_counting(similarity: Tensor, rows: IntArray, columns: IntArray) -> IntArray:
    """Zero-based ranks of the entries (rows, columns) of [B, G] similarities within their rows.

    Greater similarities come first, ties are ordered by column. Efficient for similarities on the
    CPU and few entries per row: each entry costs one pass over its row, which stays in the cache.
    """
    ranks = np.empty_like(columns)
    counts = np.bincount(rows, minlength=len(similarity))
    stops = np.cumsum(counts)
    for row, start, stop in zip(similarity.numpy(), stops - counts, stops, strict=True):
        if start < stop:
            ranks[start:stop] = _row_ranks(row, columns[start:stop])
    return ranks


def _row_ranks(row: npt.NDArray[np.floating], columns: IntArray) -> IntArray:
    before = row >= row[columns].min()
    if np.count_nonzero(before) < len(row) // 4:
        # Entries below the last match precede none of them; with trained features, nearly all do.
        kept = np.flatnonzero(before)
        row, columns, before = row[kept], np.searchsorted(kept, columns), before[: len(kept)]
    ranks = np.empty_like(columns)
    for index, column in enumerate(columns.tolist()):
        np.greater_equal(row[:column], row[column], out=before[:column])
        np.greater(row[column:], row[column], out=before[column:])
        ranks[index] = np.count_nonzero(before)
    return ranks


def ranks_by_sorting(similarity: Tensor, rows: IntArray, columns: IntArray) -> IntArray:
    """Computes the same ranks as `ranks_by_counting` by sorting rows, on any device.

    The cost does not depend on the number of entries. Modifies `similarity` in place.
    """
    similarity += 0.0  # turns -0.0 into 0.0: a bitwise sort would not treat them as equal
    order = similarity.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    return ranks[to_device((rows, columns), order.device)].cpu().numpy()


def _scores(similarity_rows: SimilarityRows, matching: Matching, chunk: int) -> RankingScores:
    parts = [
        query_scores(block.rows, match_ranks(block))
        for block in matching.blocks(similarity_rows, chunk)
    ]
    precision, inverse_penalty, first_place = np.concatenate(parts, axis=1)
    num_valid = len(first_place)
    if num_valid == 0:
        return RankingScores(math.nan, math.nan, np.full(MAX_RANK, math.nan), 0)
    hits_at = np.bincount(
        np.minimum(first_place, MAX_RANK + 1).astype(np.int64), minlength=MAX_RANK + 2
    )
    return RankingScores(
        mAP=float(precision.mean()),
        mINP=float(inverse_penalty.mean()),
        cmc=np.cumsum(hits_at[1 : MAX_RANK + 1]) / num_valid,
        num_valid_queries=num_valid,
    )


def query_scores(rows: IntArray, ranks: IntArray) -> FloatArray:
    """[3, V]: average precision, INP and rank (from 1) of the first match of each valid row."""
    places = ranks[np.lexsort((ranks, rows))] + 1
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if not len(starts):
        return np.empty((3, 0))
    num_matches = np.diff(starts, append=len(rows))
    ordinals = np.arange(len(places)) - np.repeat(starts, num_matches) + 1
    average_precision = np.add.reduceat(ordinals / places, starts) / num_matches
    inverse_penalty = num_matches / places[starts + num_matches - 1]
    return np.stack([average_precision, inverse_penalty, places[starts].astype(np.float64)])
