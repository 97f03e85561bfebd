"""Exact k-reciprocal re-ranking without an N x N matrix.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. Queries
and gallery are one set of N = Q + G images. Cameras and ids are used only for the scores.

1. d(i, j): squared Euclidean distance of the L2-normalised features, divided by the largest of
   row i. N(i, k): the k nearest images of i, without i itself.
2. R(i, k): the j with j in N(i, k) and i in N(j, k), and i itself.
3. R*(i): R(i, k1), and R(j, k1 / 2) of every j in R(i, k1) that has more than two thirds of its
   members in R(i, k1). k1 / 2 is rounded, halves to the even number.
4. V(i): exp(-d(i, j)) for j in R*(i), else 0, normalised to sum 1.
5. Local query expansion: V(i) is replaced by the mean of V over i and N(i, k2 - 1).
6. Jaccard distance: 1 - sum(min(V(i), V(j))) / sum(max(V(i), V(j))), and the final distance is
   (1 - weight) * Jaccard + weight * d.

Differs from the paper where the authors' code, which produced the published numbers, does: d is
scaled, sets include the image itself, "more than" replaces "at least" two thirds, V sums to 1.
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

from tasks.retrieval.exact_products import exact_products
from tasks.retrieval.normalised_features import normalise_rows
from tasks.retrieval.ranking import Ids, RankingScores, rank_rows
from tasks.schema import FrozenConfig

SET_ROWS = 4096
"""Number of images whose sets are expanded together."""
PAIR_VALUES = 2**22
"""Number of feature values gathered together for pairwise distances."""
TIED_ROWS = 32
"""Number of rows fully sorted together, if further images tie with the last neighbour."""

Indices = npt.NDArray[np.int32]
Sparse = Any  # scipy has no type hints


class RerankingConfig(FrozenConfig):
    """k-reciprocal re-ranking of test rankings."""

    enabled: bool = Field(default=False, description="re-rank before computing scores")
    k1: int = Field(
        default=20, ge=1, description="number of nearest neighbours tested for reciprocity"
    )
    k2: int = Field(
        default=6, ge=1, description="number of images averaged in local query expansion; 1 = off"
    )
    weight: float = Field(
        default=0.3, ge=0, le=1, description="weight of the original distance (the paper's lambda)"
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
    """Scores rankings by re-ranked distances (`reranked_rows`, then `rank_rows`).

    Ignores `settings.enabled`.

    Raises:
        ValueError: as `reranked_rows` and `rank_rows`, or a different number of ids and features.
    """
    sides = (("query", query_features, query_ids), ("gallery", gallery_features, gallery_ids))
    for side, features, ids in sides:
        if len(ids) != len(features):
            raise ValueError(
                f"{side}_ids: expected {len(features)} ids, one per feature, got {len(ids)}"
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
    """Similarities after re-ranking: the negated final distance (step 6 above).

    Ties among neighbours are ordered by index, queries before gallery. An image is always its own
    first neighbour, even if it has duplicates.

    Distances and neighbours are computed on the features' device, `chunk` images against all at
    a time; sets and sums on the CPU. Memory beyond a normalised copy of the features: about 20
    bytes for each of `chunk` x N distances, 4 x max(k1 + 1, k2) bytes per image for the neighbours
    and 8 bytes (float32) for each nonzero of V, which has up to three copies while it is built.
    V has at most k2 x (k1 + 1) x (k1 / 2 + 2) nonzeros per image; 25 to 45 were measured with the
    default settings. Memory is linear in N: 0.3 GB were measured for the 93,820 images of MSMT17,
    where an N x N matrix takes 35 GB.

    Args:
        query_features: [Q, D] float; L2-normalised here.
        gallery_features: [G, D] float, on the same device; L2-normalised here.
        settings: k1, k2 and weight; k1 and k2 are limited to the number of images.
        chunk: number of images whose distances to all others are in memory at once.

    Returns:
        A function of (start, stop) that returns the [stop - start, G] similarities of these
        queries in a new tensor, on the device of the features, float32 or float64.

    Raises:
        ValueError: an empty set, mismatched shapes, features that are not finite, or a chunk
            below 1.
    """
    images = _concatenated(query_features, gallery_features, chunk)
    num_queries = len(query_features)
    neighbours, scales = _neighbours(images, max(settings.k1 + 1, settings.k2), chunk)
    encodings = _encodings(images.features, scales, neighbours, settings.k1)
    expanded = _expanded(encodings, neighbours[:, : settings.k2])
    queries, gallery = expanded[:num_queries], expanded[num_queries:].tocsc()

    def rows(start: int, stop: int) -> Tensor:
        distances = images.distances(slice(start, stop), slice(num_queries, None))
        distances *= (settings.weight / scales[start:stop])[:, None]
        jaccard = np.empty(distances.shape, gallery.dtype)
        for index, row in enumerate(range(start, stop)):
            jaccard[index] = _jaccard(queries, row, gallery)
        distances.add_(torch.from_numpy(jaccard).to(distances), alpha=1.0 - settings.weight)
        return distances.neg_()

    return rows


@dataclass(frozen=True, eq=False)
class _Images:
    """L2-normalised features [N, D] and their squared norms [N], which are 0 for zero rows."""

    features: Tensor
    squared_norms: Tensor

    def distances(self, rows: slice, columns: slice) -> Tensor:
        """Squared Euclidean distances [n, M] of all pairs."""
        with exact_products(self.features.device):
            products = self.features[rows] @ self.features[columns].T
        distances = products.mul_(-2.0).add_(self.squared_norms[columns])
        return distances.add_(self.squared_norms[rows, None]).clamp_(min=0.0)


def _concatenated(query: Tensor, gallery: Tensor, chunk: int) -> _Images:
    query = normalise_rows("query_features", query)
    gallery = normalise_rows("gallery_features", gallery)
    if not len(query) or not len(gallery):
        raise ValueError(
            "expected at least one query and one gallery image, got "
            f"{len(query)} and {len(gallery)}; check that the split has images"
        )
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            "expected query and gallery features of the same width and device, got "
            f"{list(query.shape)} on {query.device} and {list(gallery.shape)} on {gallery.device}"
        )
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 image, got {chunk}")
    features = torch.cat([query, gallery])
    return _Images(features, features.square().sum(dim=1))


def _neighbours(images: _Images, count: int, chunk: int) -> tuple[Indices, Tensor]:
    """[N, count] nearest images of each, itself first, and [N] its largest distance."""
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
    # If all images are equal, distances stay 0.
    return neighbours, scales.masked_fill_(scales == 0, 1.0)


def _nearest(distances: Tensor, count: int) -> Tensor:
    """Columns [n, count] of the smallest distances in ascending order, ties by column."""
    values, columns = distances.topk(min(count + 1, distances.shape[1]), largest=False)
    kept_columns, by_column = columns[:, :count].sort(dim=1)
    order = values[:, :count].gather(1, by_column).argsort(dim=1, stable=True)
    nearest = kept_columns.gather(1, order)
    if values.shape[1] > count:
        # topk returns an arbitrary subset of the entries tied with the last one.
        tied = (values[:, count - 1] == values[:, count]).nonzero()[:, 0]
        for rows in tied.split(TIED_ROWS):
            nearest[rows] = distances[rows].argsort(dim=1, stable=True)[:, :count]
    return nearest


def _encodings(features: Tensor, scales: Tensor, neighbours: Indices, k1: int) -> Sparse:
    """V before local query expansion, [N, N] CSR."""
    from scipy import sparse  # takes a second to import; only re-ranking needs it

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
    """Symmetric [N, N] CSR with 1 at (i, j) if i and j are neighbours of each other."""
    from scipy import sparse

    num_images, count = neighbours.shape
    ends = np.arange(0, num_images * count + 1, count, dtype=np.int32)
    ones = np.ones(num_images * count, np.int32)
    forward = sparse.csr_array((ones, neighbours.ravel(), ends), shape=(num_images, num_images))
    return forward.multiply(forward.T).tocsr()


def _expanded_sets(mutual: Sparse, half: Sparse) -> Sparse:
    """R* of n images: sorted [n, N] CSR; only its sparsity pattern is meaningful."""
    from scipy import sparse

    sizes = np.diff(half.indptr)
    shared = (mutual @ half).multiply(mutual).tocoo()  # members of R(j, k1 / 2) in R(i, k1)
    accepted = 3 * shared.data > 2 * sizes[shared.col]
    ones = np.ones(int(accepted.sum()), np.int32)
    indices = (shared.row[accepted], shared.col[accepted])
    joined = sparse.csr_array((ones, indices), shape=mutual.shape)
    expanded = (mutual + joined @ half).tocsr()
    expanded.sort_indices()
    return expanded


def _pair_weights(
    features: Tensor, scales: Tensor, rows: npt.NDArray[Any], columns: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """exp(-d) of the pairs (rows, columns), [P] in the type of the features."""
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
    """Mean encoding over each image's neighbours, including the image itself."""
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

    Only columns where the query is nonzero are visited (inverted index).
    """
    nonzeros = slice(queries.indptr[row], queries.indptr[row + 1])
    columns = queries.indices[nonzeros]
    starts, stops = gallery.indptr[columns], gallery.indptr[columns + 1]
    ends = zip(starts.tolist(), stops.tolist(), strict=True)
    positions = np.concatenate([np.arange(start, stop) for start, stop in ends])
    smaller = np.minimum(gallery.data[positions], np.repeat(queries.data[nonzeros], stops - starts))
    shared = np.bincount(gallery.indices[positions], weights=smaller, minlength=gallery.shape[0])
    return 1.0 - shared / (2.0 - shared)  # each row sums to 1
