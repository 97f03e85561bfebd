"""k-reciprocal re-ranking, exact and without any matrix of all images by all images.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. Queries
and gallery are one set of N = Q + G images; cameras and ids play no part before the scores.

1. d(i, j): squared Euclidean distance of the L2-normalised features, divided by the largest of
   row i. N(i, k): the k images nearest to i, i itself left out.
2. R(i, k): the j with j in N(i, k) and i in N(j, k), and i itself.
3. R*(i): R(i, k1), and R(j, k1 / 2) of every j in R(i, k1) that has more than two thirds of its
   members in R(i, k1). k1 / 2 is rounded, halves to the even number.
4. V(i): exp(-d(i, j)) for j in R*(i), else 0, divided by its sum.
5. Local query expansion: V(i) becomes the mean of V over i and N(i, k2 - 1).
6. Jaccard distance: 1 - sum(min(V(i), V(j))) / sum(max(V(i), V(j))), and the final distance is
   (1 - weight) * Jaccard + weight * d.

Where the paper and its published code differ, this follows the code, as the published numbers do:
the scaling of d, sets with the image itself, more than (not at least) two thirds, V that sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from tasks.retrieval.normalised_features import unit_rows
from tasks.retrieval.ranking import Ids, RankingScores, rank_rows
from tasks.schema import FrozenConfig

SET_ROWS = 4096
"""Images whose sets are expanded together."""
PAIR_VALUES = 2**22
"""Feature values that are gathered together for the distances of single pairs."""
TIED_ROWS = 32
"""Rows that are sorted whole together, where neighbours beyond the last one are as near as it."""

Indices = npt.NDArray[np.int32]
Sparse = Any  # scipy carries no types


class RerankingConfig(FrozenConfig):
    """k-reciprocal re-ranking of the test results."""

    enabled: bool = Field(default=False, description="re-rank before the scores are taken")
    k1: int = Field(default=20, ge=1, description="neighbours that must be mutual")
    k2: int = Field(
        default=6, ge=1, description="images averaged in local query expansion; 1 is none"
    )
    weight: float = Field(
        default=0.3, ge=0, le=1, description="of the original distance (the paper's lambda)"
    )


def evaluate_reranked(
    query_features: Tensor,
    gallery_features: Tensor,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Ids | None = None,
    gallery_cameras: Ids | None = None,
    *,
    settings: RerankingConfig,
    chunk: int = 256,
) -> RankingScores:
    """Scores the rankings by re-ranked distances: `reranked_rows` given to `rank_rows`.

    `settings.enabled` is the caller's to obey.

    Raises:
        ValueError: as `reranked_rows` and `rank_rows`, or ids that are not as many as features.
    """
    sides = (("query", query_features, query_ids), ("gallery", gallery_features, gallery_ids))
    for side, features, ids in sides:
        if len(ids) != len(features):
            raise ValueError(
                f"{side}_ids: expected {len(features)}, one for each feature, got {len(ids)}"
            )
    rows = reranked_rows(query_features, gallery_features, settings=settings, chunk=chunk)
    return rank_rows(rows, query_ids, gallery_ids, query_cameras, gallery_cameras, chunk=chunk)


def reranked_rows(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    settings: RerankingConfig,
    chunk: int = 256,
) -> Callable[[int, int], Tensor]:
    """Similarities after re-ranking: minus the final distance of the module's text.

    Neighbours as near as one another come in the order of their index, queries before gallery; an
    image is its own first neighbour whatever duplicates it has.

    Distances and neighbours are computed on the features' device, `chunk` images against all at
    a time; sets and sums on the CPU. Memory beyond a normalised copy of the features: about 20
    bytes for each of `chunk` x N distances, 4 x max(k1 + 1, k2) bytes an image for the neighbours
    and 8 bytes (float32) for each nonzero of V, which is held up to three times while it is
    built. V has at most k2 x (k1 + 1) x (k1 / 2 + 2) nonzeros an image; 25 to 45 were measured
    at the usual settings. All of it is linear in N: 0.3 GB were measured at MSMT17's 93,820
    images, where one matrix of all by all takes 35 GB.

    Args:
        query_features: [Q, D] float, of any length: they are L2-normalised here.
        gallery_features: [G, D] float, on the same device.
        settings: k1, k2 and the weight; a k beyond the number of images counts as that number.
        chunk: images whose distances to all others are held at once.

    Returns:
        A function of (start, stop) that gives the [stop - start, G] similarities of these
        queries, a new tensor of the features' device and (float32 at least) type.

    Raises:
        ValueError: an empty set, shapes that do not fit, features that are not finite, or a chunk
            below 1.
    """
    images = _one_set(query_features, gallery_features, chunk)
    num_queries = len(query_features)
    neighbours, scales = _neighbours(images, max(settings.k1 + 1, settings.k2), chunk)
    encodings = _encodings(images.features, scales, neighbours, settings.k1)
    expanded = _expanded(encodings, neighbours[:, : settings.k2])
    queries, gallery = expanded[:num_queries], expanded[num_queries:].tocsc()

    def rows(start: int, stop: int) -> Tensor:
        distances = images.distances(slice(start, stop), slice(num_queries, None))
        distances *= (settings.weight / scales[start:stop])[:, None]
        jaccard = np.empty(distances.shape, gallery.dtype)
        for place, row in enumerate(range(start, stop)):
            jaccard[place] = _jaccard(queries, row, gallery)
        distances.add_(torch.from_numpy(jaccard).to(distances), alpha=1.0 - settings.weight)
        return distances.neg_()

    return rows


@dataclass(frozen=True, eq=False)
class _Images:
    """L2-normalised features [N, D] and their squared lengths [N], which are 0 for zero rows."""

    features: Tensor
    squared: Tensor

    def distances(self, some: slice, others: slice) -> Tensor:
        """Squared Euclidean distances [n, M] of all pairs."""
        # A caller's autocast would round them to bfloat16 and make ties of them.
        with torch.autocast(self.features.device.type, enabled=False):
            products = self.features[some] @ self.features[others].T
        distances = products.mul_(-2.0).add_(self.squared[others])
        return distances.add_(self.squared[some, None]).clamp_(min=0.0)


def _one_set(query: Tensor, gallery: Tensor, chunk: int) -> _Images:
    query, gallery = (
        unit_rows("query_features", query),
        unit_rows("gallery_features", gallery),
    )
    if not len(query) or not len(gallery):
        raise ValueError(
            "expected at least one query and one gallery image, got "
            f"{len(query)} and {len(gallery)}; check that the split has images"
        )
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            "expected query and gallery features of one width on one device, got "
            f"{list(query.shape)} on {query.device} and {list(gallery.shape)} on {gallery.device}"
        )
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 image, got {chunk}")
    features = torch.cat([query, gallery])
    return _Images(features, features.square().sum(dim=1))


def _neighbours(images: _Images, count: int, chunk: int) -> tuple[Indices, Tensor]:
    """The `count` nearest images of each, itself first, [N, count]; the largest distances [N]."""
    num_images = len(images.features)
    count = min(count, num_images)
    neighbours = np.empty((num_images, count), np.int32)
    scales = images.features.new_empty(num_images)
    for start in range(0, num_images, chunk):
        part = slice(start, min(start + chunk, num_images))
        distances = images.distances(part, slice(None))
        scales[part] = distances.amax(dim=1)
        distances.diagonal(start).fill_(-1.0)
        neighbours[part] = _nearest(distances, count).cpu().numpy()
    # Images that are all the same have distance 0, and are to keep it.
    return neighbours, scales.masked_fill_(scales == 0, 1.0)


def _nearest(distances: Tensor, count: int) -> Tensor:
    """Columns [n, count] of the smallest distances in order, equal ones by column."""
    values, columns = distances.topk(min(count + 1, distances.shape[1]), largest=False)
    kept_columns, by_column = columns[:, :count].sort(dim=1)
    order = values[:, :count].gather(1, by_column).argsort(dim=1, stable=True)
    nearest = kept_columns.gather(1, order)
    if values.shape[1] > count:
        # topk takes any of the distances that equal the last one it has room for.
        tied = (values[:, count - 1] == values[:, count]).nonzero()[:, 0]
        for rows in tied.split(TIED_ROWS):
            nearest[rows] = distances[rows].argsort(dim=1, stable=True)[:, :count]
    return nearest


def _encodings(features: Tensor, scales: Tensor, neighbours: Indices, k1: int) -> Sparse:
    """V before its expansion, [N, N] CSR."""
    from scipy import sparse  # a second to load, which only re-ranking is to pay for

    mutual = _mutual(neighbours[:, : k1 + 1])
    half = _mutual(neighbours[:, : round(k1 / 2) + 1])
    blocks = list[Sparse]()
    for start in range(0, len(neighbours), SET_ROWS):
        block = _expanded_sets(mutual[start : start + SET_ROWS], half)
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        weights = _pair_weights(features, scales, rows + start, block.indices)
        sums = np.bincount(rows, weights=weights)
        block.data = (weights / sums[rows]).astype(weights.dtype)
        blocks.append(block)
    return sparse.vstack(blocks, format="csr")


def _mutual(neighbours: Indices) -> Sparse:
    """Symmetric [N, N] CSR with 1 at (i, j) where each is among the neighbours of the other."""
    from scipy import sparse

    num_images, count = neighbours.shape
    ends = np.arange(0, num_images * count + 1, count, dtype=np.int32)
    ones = np.ones(num_images * count, np.int32)
    forward = sparse.csr_array((ones, neighbours.ravel(), ends), shape=(num_images, num_images))
    return forward.multiply(forward.T).tocsr()


def _expanded_sets(mutual: Sparse, half: Sparse) -> Sparse:
    """R* of some images: [n, N] CSR, sorted, whose pattern alone has a meaning."""
    from scipy import sparse

    sizes = np.diff(half.indptr)
    shared = (mutual @ half).multiply(mutual).tocoo()  # members of R(j, k1 / 2) in R(i, k1)
    accepted = 3 * shared.data > 2 * sizes[shared.col]
    ones = np.ones(int(accepted.sum()), np.int32)
    places = (shared.row[accepted], shared.col[accepted])
    joined = sparse.csr_array((ones, places), shape=mutual.shape)
    expanded = (mutual + joined @ half).tocsr()
    expanded.sort_indices()
    return expanded


def _pair_weights(
    features: Tensor, scales: Tensor, rows: npt.NDArray[Any], columns: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """exp(-d) of single pairs, [P] in the features' type."""
    parts = list[Tensor]()
    step = max(1, PAIR_VALUES // features.shape[1])
    for start in range(0, len(rows), step):
        left, right = (
            torch.from_numpy(each[start : start + step].astype(np.int64)).to(features.device)
            for each in (rows, columns)
        )
        distances = (features[left] - features[right]).square_().sum(dim=1)
        parts.append(torch.exp(-distances / scales[left]).cpu())
    return torch.cat(parts).numpy()


def _expanded(encodings: Sparse, neighbours: Indices) -> Sparse:
    """Mean encoding of each image's neighbours, itself among them."""
    from scipy import sparse

    num_images, count = neighbours.shape
    if count == 1:
        return encodings
    ends = np.arange(0, num_images * count + 1, count, dtype=np.int32)
    shares = np.full(num_images * count, 1.0 / count, encodings.dtype)
    mean = sparse.csr_array((shares, neighbours.ravel(), ends), shape=encodings.shape)
    return mean @ encodings


def _jaccard(queries: Sparse, row: int, gallery: Sparse) -> npt.NDArray[np.float64]:
    """Jaccard distances [G] of one row of the CSR queries to all rows of the CSC gallery.

    Only columns where the query is nonzero are looked at: they are the inverted index.
    """
    own = slice(queries.indptr[row], queries.indptr[row + 1])
    columns = queries.indices[own]
    starts, stops = gallery.indptr[columns], gallery.indptr[columns + 1]
    ends = zip(starts.tolist(), stops.tolist(), strict=True)
    places = np.concatenate([np.arange(start, stop) for start, stop in ends])
    smaller = np.minimum(gallery.data[places], np.repeat(queries.data[own], stops - starts))
    shared = np.bincount(gallery.indices[places], weights=smaller, minlength=gallery.shape[0])
    return 1.0 - shared / (2.0 - shared)  # each row sums to 1
