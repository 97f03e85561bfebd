"""Exact retrieval scores: every query ranked against the whole gallery, in bounded memory.

No ranking is ever sorted as a whole. A query has few matches in a large gallery, so each gallery
entry is binned between the query's matches and the bins are counted; that gives the rank of every
match, which is all that AP, INP and CMC need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_RANK = 50
"""Length of the cumulative matching curve."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Ids = Tensor | npt.NDArray[np.integer] | Sequence[int]


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
) -> RankingScores:
    """Ranks the gallery by similarity to each query and scores the rankings.

    The similarity is the inner product of the features as they are given (float32 at least), so
    L2-normalise them first for the cosine. Equal similarities are ranked by gallery index. With
    cameras, entries of the query's person taken by the query's camera are taken out of its
    gallery (Market-1501 protocol); without, nothing is (text-to-image protocol). A query without
    a match left is not counted.

    Precisions are exact and accumulated in float64. Runs on the device of the features; beyond
    them it holds about 30 bytes for each of `chunk` x G similarities, whatever Q is. `chunk`
    changes no score, except that the device may round a similarity differently in its last bit.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: queries that are ranked together.

    Raises:
        ValueError: an empty set, shapes that do not fit, features that are not finite, cameras of
            one side alone, or a chunk below 1.
    """
    _check_features(query_features, gallery_features)
    _check_cameras(query_cameras, gallery_cameras)
    dtype = torch.promote_types(query_features.dtype, gallery_features.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    query, gallery = query_features.detach().to(dtype), gallery_features.detach().to(dtype)
    ids = [
        _as_ids(name, values, len(features))
        for name, values, features in (
            ("query_ids", query_ids, query),
            ("gallery_ids", gallery_ids, gallery),
            ("query_cameras", query_cameras, query),
            ("gallery_cameras", gallery_cameras, gallery),
        )
        if values is not None
    ]

    def similarity_rows(start: int, stop: int) -> Tensor:
        return query[start:stop] @ gallery.T

    # A caller's autocast would round the similarities to bfloat16 and make ties of them.
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        return rank_rows(similarity_rows, *ids, chunk=chunk)


def rank_rows(
    similarity_rows: Callable[[int, int], Tensor],
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Ids | None = None,
    gallery_cameras: Ids | None = None,
    *,
    chunk: int = 256,
) -> RankingScores:
    """Scores the rankings that similarities given in blocks of rows make.

    `evaluate_ranking` for similarities that are no inner products; the same protocol and ties.

    Args:
        similarity_rows: similarity_rows(start, stop) gives the [stop - start, G] float
            similarities of these queries to the whole gallery: the greater, the more alike, none
            of them NaN. It is called once for each block, in order. Its result is written into,
            and is not read after the next call, so one buffer serves all calls.
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids; an id that no query has is a distractor.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        chunk: queries asked for at once.

    Raises:
        ValueError: an empty set, shapes that do not fit, cameras of one side alone, or a chunk
            below 1.
    """
    _check_cameras(query_cameras, gallery_cameras)
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 query, got {chunk}")
    num_queries, num_gallery = len(query_ids), len(gallery_ids)
    if not num_queries or not num_gallery:
        raise ValueError(
            f"expected at least one query and one gallery image, got {num_queries} query_ids and "
            f"{num_gallery} gallery_ids; check that the split has images"
        )
    ids = (
        _as_ids("query_ids", query_ids, num_queries),
        _as_ids("gallery_ids", gallery_ids, num_gallery),
    )
    cameras = None
    if query_cameras is not None and gallery_cameras is not None:
        cameras = (
            _as_ids("query_cameras", query_cameras, num_queries),
            _as_ids("gallery_cameras", gallery_cameras, num_gallery),
        )
    with torch.no_grad():
        rows, ranks = _all_match_ranks(similarity_rows, ids, cameras, chunk)
    return _scores(rows, ranks, num_queries)


def _check_features(query: Tensor, gallery: Tensor) -> None:
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"{name}: expected a [N, D] float tensor, "
                f"got {list(features.shape)} of {features.dtype}"
            )
        if features.numel() == 0:
            raise ValueError(
                f"{name}: expected at least one feature, got an empty tensor "
                f"{list(features.shape)}; check that the split has images"
            )
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            "expected query and gallery features of one width on one device, got "
            f"{list(query.shape)} on {query.device} and {list(gallery.shape)} on {gallery.device}"
        )
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        # A row with NaN or infinity has such a sum too, and the sum is one pass instead of five.
        finite = torch.isfinite(features.detach().sum(dim=1, dtype=torch.float64))
        if not bool(finite.all()):
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity in "
                f"{int((~finite).sum())} of {len(features)} rows, the first is row "
                f"{int((~finite).nonzero()[0])}; the network has probably diverged"
            )


def _check_cameras(query_cameras: Ids | None, gallery_cameras: Ids | None) -> None:
    if (query_cameras is None) != (gallery_cameras is None):
        given = "query_cameras" if gallery_cameras is None else "gallery_cameras"
        raise ValueError(f"expected cameras of both sides or of neither, got only {given}")


def _as_ids(name: str, ids: Ids, count: int) -> Tensor:
    tensor = torch.as_tensor(ids)
    if tensor.is_floating_point() or tensor.shape != (count,):
        raise ValueError(
            f"{name}: expected {count} integers, one for each feature, "
            f"got {list(tensor.shape)} of {tensor.dtype}"
        )
    return tensor


def _all_match_ranks(
    similarity_rows: Callable[[int, int], Tensor],
    ids: tuple[Tensor, Tensor],
    cameras: tuple[Tensor, Tensor] | None,
    chunk: int,
) -> tuple[IntArray, IntArray]:
    """Query index and rank (from 0) of every match of every query, both [M]."""
    num_queries, num_gallery = len(ids[0]), len(ids[1])
    rows: list[IntArray] = []
    ranks: list[IntArray] = []
    for start in range(0, num_queries, chunk):
        stop = min(start + chunk, num_queries)
        similarity = similarity_rows(start, stop)
        if similarity.shape != (stop - start, num_gallery) or not similarity.is_floating_point():
            raise ValueError(
                f"similarity_rows: expected {[stop - start, num_gallery]} floats for queries "
                f"{start} to {stop - 1}, got {list(similarity.shape)} of {similarity.dtype}"
            )
        device = similarity.device
        matches = ids[0][start:stop, None].to(device) == ids[1].to(device)
        if cameras is not None:
            same_camera = cameras[0][start:stop, None].to(device) == cameras[1].to(device)
            removed = matches & same_camera
            similarity.masked_fill_(removed, -math.inf)
            matches &= ~removed
        part_rows, part_ranks = _match_ranks(similarity, matches)
        rows.append(part_rows.cpu().numpy() + start)
        ranks.append(part_ranks.cpu().numpy())
    return np.concatenate(rows), np.concatenate(ranks)


def _match_ranks(similarity: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Row and rank (from 0) of every match; removed entries have similarity -inf.

    The similarities of a row's matches are its thresholds. A gallery entry's bin is the number of
    thresholds below it, so the entries in higher bins than a match are exactly those above it.
    Entries equal to a threshold, the matches among them, are then put in order of their index.
    """
    num_rows, num_gallery = similarity.shape
    rows, columns = matches.nonzero(as_tuple=True)
    num_matches = matches.sum(dim=1)
    width = int(num_matches.max()) + 1
    offset_in_row = _arange_like(rows) - (num_matches.cumsum(0) - num_matches)[rows]
    thresholds = similarity.new_full((num_rows, width), math.inf)
    thresholds[rows, offset_in_row] = similarity[rows, columns]
    thresholds = thresholds.sort(dim=1).values

    bins = torch.searchsorted(thresholds, similarity)
    tied_rows, tied_columns = (thresholds.gather(1, bins) == similarity).nonzero(as_tuple=True)
    bins += width * torch.arange(num_rows, device=bins.device)[:, None]
    counts = torch.bincount(bins.flatten(), minlength=num_rows * width)
    num_not_above = counts.view(num_rows, width).cumsum(1).flatten()

    tied_bins = bins[tied_rows, tied_columns]
    order = tied_bins.argsort(stable=True)
    grouped = tied_bins[order]
    num_tied_before = torch.empty_like(order)
    num_tied_before[order] = _arange_like(grouped) - torch.searchsorted(grouped, grouped)
    ranks = num_gallery - num_not_above[tied_bins] + num_tied_before
    is_match = matches[tied_rows, tied_columns]
    return tied_rows[is_match], ranks[is_match]


def _arange_like(tensor: Tensor) -> Tensor:
    return torch.arange(len(tensor), device=tensor.device)


def _scores(rows: IntArray, ranks: IntArray, num_queries: int) -> RankingScores:
    num_matches = np.bincount(rows, minlength=num_queries)
    num_matches = num_matches[num_matches > 0]
    num_valid = len(num_matches)
    if num_valid == 0:
        return RankingScores(math.nan, math.nan, np.full(MAX_RANK, math.nan), 0)
    places = ranks[np.lexsort((ranks, rows))] + 1
    ends = np.cumsum(num_matches)
    starts = ends - num_matches
    ordinals = np.arange(len(places)) - np.repeat(starts, num_matches) + 1
    average_precision = np.add.reduceat(ordinals / places, starts) / num_matches
    hits_at = np.bincount(np.minimum(places[starts], MAX_RANK + 1), minlength=MAX_RANK + 2)
    return RankingScores(
        mAP=float(average_precision.mean()),
        mINP=float((num_matches / places[ends - 1]).mean()),
        cmc=np.cumsum(hits_at[1 : MAX_RANK + 1]) / num_valid,
        num_valid_queries=num_valid,
    )
