"""Query-gallery similarities in blocks of rows, with matches and the camera rule.

Common basis of all retrieval metrics: inner products of features, the protocol (which gallery
images are matches, which are removed by the camera rule) and validation of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.retrieval.exact_products import exact_products

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Ids = Tensor | npt.NDArray[np.integer] | Sequence[int]
RankingProtocol = Literal["standard", "single_gallery_shot"]
"""How test queries are ranked: against the whole gallery, or against one image per person."""
SimilarityRows = Callable[[int, int], Tensor]
"""Function from a range (start, stop) of queries to their [stop - start, G] similarities."""


def inner_products(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    chunk: int,
    device: torch.device | str | None = None,
) -> SimilarityRows:
    """Inner products of the features in blocks of at most `chunk` rows, in one shared buffer.

    They are computed in float32, or in float64 if one of the features is float64.

    Args:
        query_features: [Q, D] float.
        gallery_features: [G, D] float, on the same device.
        chunk: number of rows of the buffer.
        device: where to compute; None for the device of the features.

    Raises:
        ValueError: an empty set, mismatched shapes, features that are not finite, or a chunk
            below 1.
    """
    _check_features(query_features, gallery_features)
    _check_chunk(chunk)
    dtype = torch.promote_types(query_features.dtype, gallery_features.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    query = query_features.detach().to(device, dtype)
    gallery = gallery_features.detach().to(device, dtype)
    buffer = query.new_empty((min(chunk, len(query)), len(gallery)))

    def products(start: int, stop: int) -> Tensor:
        block = buffer[: stop - start]
        if block.device.type == "cpu":
            # Twice as fast as torch.mm on AMD CPUs: numpy uses OpenBLAS, torch uses MKL.
            with np.errstate(over="ignore", invalid="ignore"):  # checked by the caller
                np.matmul(query[start:stop].numpy(), gallery.numpy().T, out=block.numpy())
            return block
        with torch.no_grad(), exact_products(block.device):
            return torch.mm(query[start:stop], gallery.T, out=block)

    return products


@dataclass(frozen=True, eq=False)
class Block:
    """Similarities of B queries to the whole gallery, and the positions of their matches.

    Attributes:
        start: index of the first query.
        similarity: [B, G] float32 or float64; -inf at entries removed by the camera rule.
        rows: [M] row of each match, ascending.
        columns: [M] gallery index of each match, ascending within a row.
    """

    start: int
    similarity: Tensor
    rows: IntArray
    columns: IntArray


class Matching:
    """Finds the matches of each query and the entries removed by the camera rule.

    The gallery is grouped by person once, so queries need not be compared with all entries.

    Args:
        query_ids: [Q] integer person ids.
        gallery_ids: [G] integer person ids.
        query_cameras: [Q] integer camera ids, or None.
        gallery_cameras: [G] integer camera ids, or None.
        size: (Q, G) to check the ids against; None for the lengths of the ids.

    Raises:
        ValueError: no query, an empty gallery, ids or cameras that are not Q or G integers, or
            cameras of only one side.
    """

    def __init__(
        self,
        query_ids: Ids,
        gallery_ids: Ids,
        query_cameras: Ids | None = None,
        gallery_cameras: Ids | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.num_queries, self.num_gallery = size or (len(query_ids), len(gallery_ids))
        if not self.num_queries or not self.num_gallery:
            raise ValueError(
                f"expected at least one query and one gallery image, got {self.num_queries} and "
                f"{self.num_gallery}; check that the split has images"
            )
        if (query_cameras is None) != (gallery_cameras is None):
            given = "query_cameras" if gallery_cameras is None else "gallery_cameras"
            raise ValueError(
                f"expected cameras of both query and gallery or of neither, got only {given}"
            )
        persons = _as_ids("query_ids", query_ids, self.num_queries)
        self.gallery_ids = _as_ids("gallery_ids", gallery_ids, self.num_gallery)
        self._cameras: tuple[IntArray, IntArray] | None = None
        if query_cameras is not None and gallery_cameras is not None:
            self._cameras = (
                _as_ids("query_cameras", query_cameras, self.num_queries),
                _as_ids("gallery_cameras", gallery_cameras, self.num_gallery),
            )
        self._by_person = self.gallery_ids.argsort(kind="stable")
        grouped = self.gallery_ids[self._by_person]
        self._first = np.searchsorted(grouped, persons, side="left")
        self._num_entries = np.searchsorted(grouped, persons, side="right") - self._first

    def blocks(self, similarity_rows: SimilarityRows, chunk: int) -> Iterator[Block]:
        """Yields the similarities in blocks of `chunk` queries, with the camera rule applied.

        Raises:
            ValueError: similarities of an unexpected shape or not finite, or a chunk below 1.
        """
        _check_chunk(chunk)
        for start in range(0, self.num_queries, chunk):
            stop = min(start + chunk, self.num_queries)
            similarity = similarity_rows(start, stop).detach()
            _check_similarity(similarity, start, stop, self.num_gallery)
            similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
            rows, columns, is_removed = self._entries(start, stop)
            removed = rows[is_removed], columns[is_removed]
            similarity[to_device(removed, similarity.device)] = -math.inf
            yield Block(start, similarity, rows[~is_removed], columns[~is_removed])

    def _entries(self, start: int, stop: int) -> tuple[IntArray, IntArray, BoolArray]:
        """Row, gallery index and removal by the camera rule of each entry of a query's person."""
        counts = self._num_entries[start:stop]
        rows = np.repeat(np.arange(stop - start), counts)
        offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = self._by_person[np.repeat(self._first[start:stop], counts) + offsets]
        if self._cameras is None:
            return rows, columns, np.zeros(len(rows), dtype=np.bool_)
        return rows, columns, self._cameras[0][start + rows] == self._cameras[1][columns]


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
            "expected query and gallery features of the same width and device, got "
            f"{list(query.shape)} on {query.device} and {list(gallery.shape)} on {gallery.device}"
        )
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        if not _is_finite(features):
            finite = torch.isfinite(features).all(dim=1)
            raise ValueError(
                f"{name}: expected finite values, got NaN or infinity in "
                f"{int((~finite).sum())} of {len(features)} rows, first in row "
                f"{int((~finite).nonzero()[0])}; the network has probably diverged"
            )


def _is_finite(values: Tensor) -> bool:
    # One pass without a copy; any NaN makes both results NaN.
    lowest, highest = values.detach().aminmax()
    return math.isfinite(lowest) and math.isfinite(highest)


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 query, got {chunk}")


def _check_similarity(similarity: Tensor, start: int, stop: int, num_gallery: int) -> None:
    expected = [stop - start, num_gallery]
    if list(similarity.shape) != expected or not similarity.is_floating_point():
        raise ValueError(
            f"similarities of queries {start} to {stop - 1}: expected {expected} floats, "
            f"got {list(similarity.shape)} of {similarity.dtype}"
        )
    # Comparisons with NaN are false, so its rank would be silently wrong.
    if not _is_finite(similarity):
        raise ValueError(
            f"similarities of queries {start} to {stop - 1}: expected finite values, got NaN or "
            "infinity; check for features that are not finite or whose products are too large"
        )


def _as_ids(name: str, ids: Ids, count: int) -> IntArray:
    tensor = torch.as_tensor(ids)
    if tensor.is_floating_point() or tensor.shape != (count,):
        raise ValueError(
            f"{name}: expected {count} integers, one per feature, "
            f"got {list(tensor.shape)} of {tensor.dtype}"
        )
    return tensor.cpu().numpy().astype(np.int64)


def to_device(indices: tuple[IntArray, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Converts index arrays to tensors on a device."""
    return tuple(torch.as_tensor(index, device=device) for index in indices)
