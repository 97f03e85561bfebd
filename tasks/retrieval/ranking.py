"""Exact retrieval scores: every query ranked against the whole gallery, in bounded memory.

AP, INP and CMC need the rank of each match of a query and nothing else of its ranking. A query has
few matches in a large gallery, so the gallery entries before each match are counted, and hardly a
ranking is ever sorted.
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
"""Length of the cumulative matching curve."""

MAX_COUNTED_SHARE = 1 / 128
"""Matches up to this share of the gallery are counted. Where there are more of them, it is faster
to sort the row: measured for galleries of 1,000 to 82,161 images on two cores."""


@dataclass(frozen=True, eq=False)
class RankingScores:
    """Scores of one retrieval evaluation, as fractions in [0, 1].

    Every score is NaN when `num_valid_queries` is 0.

    Attributes:
        mAP: mean over valid queries of the average precision (mean of the precision at each
            match, no interpolation).
        mINP: mean over valid queries of the inverse negative penalty: number of matches divided
            by the rank of the last one (Ye et al., "Deep Learning for Person Re-identification:
            A Survey and Outlook", 2021).
        cmc: [50] float64, cmc[k] is the share of valid queries with a match in the first k + 1
            ranks; it stays at its last value where the gallery is shorter.
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
        """The scores that a result matrix records, by metric name, in percent."""
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

    The similarity is the inner product of the features as they are given (float32 at least), so
    L2-normalise them first for the cosine. Equal similarities are ranked by gallery index. With
    cameras, entries of the query's person taken by the query's camera are taken out of its
    gallery (Market-1501 protocol); without, nothing is (text-to-image protocol). A query without
    a match left is not counted.

    Precisions are exact and accumulated in float64. Beyond the features it holds about 5 bytes for
    each of `chunk` x G similarities, whatever Q is; 30 on a GPU, and where more than
    `MAX_COUNTED_SHARE` of the gallery are matches. `chunk` and `device` change no score, except
    that a similarity may be rounded differently in its last bit.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: queries that are ranked together.
        device: where to rank; None for the device of the features.

    Raises:
        ValueError: an empty set, shapes that do not fit, features that are not finite or whose
            products are not, cameras of one side alone, or a chunk below 1.
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
    """Scores the rankings that similarities given in blocks of rows make.

    `evaluate_ranking` for similarities that are no inner products; the same protocol and ties, on
    the device of the blocks.

    Args:
        similarity_rows: similarity_rows(start, stop) gives the [stop - start, G] finite float
            similarities of these queries to the whole gallery: the greater, the more alike. It is
            called once for each block, in order. Its result is written into, and is not read after
            the next call, so one buffer serves all calls.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: queries asked for at once.

    Raises:
        ValueError: an empty set, shapes that do not fit, similarities that are not finite, cameras
            of one side alone, or a chunk below 1.
    """
    matching = Matching(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _scores(similarity_rows, matching, chunk)


def match_ranks(block: Block) -> IntArray:
    """[M] rank of each match of a block in its query's ranking, from 0."""
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
    """Ranks from 0 of the entries (rows, columns) of [B, G] similarities, each in its row.

    Greater similarities come first, equal ones by their column. For similarities on the CPU and
    rows with few such entries: each costs a pass over its row, which stays in the cache meanwhile.
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
        # What lies below the last match is before none: with trained features, nearly all.
        kept = np.flatnonzero(before)
        row, columns, before = row[kept], np.searchsorted(kept, columns), before[: len(kept)]
    ranks = np.empty_like(columns)
    for number, column in enumerate(columns.tolist()):
        np.greater_equal(row[:column], row[column], out=before[:column])
        np.greater(row[column:], row[column], out=before[column:])
        ranks[number] = np.count_nonzero(before)
    return ranks


def ranks_by_sorting(similarity: Tensor, rows: IntArray, columns: IntArray) -> IntArray:
    """What `ranks_by_counting` returns, on any device and for any number of entries.

    Each costs nothing beyond the sorting of its row. Writes into `similarity`.
    """
    similarity += 0.0  # makes 0.0 of -0.0, which a sort by bits would tell apart
    order = similarity.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    return ranks[to_device((rows, columns), order.device)].cpu().numpy()


def _scores(similarity_rows: SimilarityRows, matching: Matching, chunk: int) -> RankingScores:
    parts = [
        _query_scores(block.rows, match_ranks(block))
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


def _query_scores(rows: IntArray, ranks: IntArray) -> FloatArray:
    """[3, V]: average precision, inverse penalty and first place of each row with a match."""
    places = ranks[np.lexsort((ranks, rows))] + 1
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if not len(starts):
        return np.empty((3, 0))
    num_matches = np.diff(starts, append=len(rows))
    ordinals = np.arange(len(places)) - np.repeat(starts, num_matches) + 1
    average_precision = np.add.reduceat(ordinals / places, starts) / num_matches
    inverse_penalty = num_matches / places[starts + num_matches - 1]
    return np.stack([average_precision, inverse_penalty, places[starts].astype(np.float64)])
