"""Nearest-neighbour search in a gallery of embeddings: exact if small, IVF-PQ if large.

Similarity is the inner product of L2-normalised features. Exact search uses faiss's flat index.
In a large gallery, vectors are assigned to lists around k-means centres (IVF) and stored as
product-quantised codes (PQ). A query probes an eighth of the lists. The best candidates by code
are then re-scored with the original vectors, so the similarities of a result are exact whatever
its recall. These vectors are not kept in faiss: a loaded index memory-maps them from their file
and holds only the codes (width / 8 bytes per entry) in memory.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from tasks.retrieval.gallery_files import GalleryFiles, replace_files
from tasks.retrieval.normalised_features import normalise_rows

log = logging.getLogger(__name__)

MIN_TRAINING_ENTRIES = 39 * 256
"""Smallest gallery for which codes are trained: faiss requires 39 entries per centre of 256."""
TRAINING_SAMPLE, TRAINING_SAMPLE_PER_LIST = 65_536, 64
"""Maximum number of entries used to train codes and lists: the larger of the two."""
MIN_CANDIDATES = 200
CANDIDATES_PER_RESULT = 10
BLOCK_VALUES = 2**24
"""Maximum number of vector values or results in memory at once."""
GPU_CODE_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
GPU_CODE_DIMENSIONS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32)
"""Bytes per code, and dimensions per byte, of faiss's GpuIndexIVFPQ; it refuses all others."""
MAX_ON_GPU = 2048
"""Maximum number of results and probed lists of a GPU search in faiss."""

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Faiss = Any  # imported inside functions: an optional dependency, and slow to import


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """Metadata of one gallery image; ids are those of the data set."""

    image_path: str
    person_id: int
    camera_id: int
    domain: str


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The k most similar entries of each query, best first, on the CPU.

    Attributes:
        similarities: [Q, k] float32 cosine similarities.
        positions: [Q, k] long, positions in the list of entries.
    """

    similarities: Tensor
    positions: Tensor


@dataclass(frozen=True)
class IvfPq:
    """Parameters of an IVF-PQ index.

    Attributes:
        num_lists: number of k-means centres.
        num_probes: number of nearest lists searched per query.
        num_subvectors: number of subvectors, each with one code.
        num_bits: bits per code.
    """

    num_lists: int
    num_probes: int
    num_subvectors: int
    num_bits: int

    @staticmethod
    def for_gallery(num_entries: int, width: int, *, for_gpu: bool = False) -> IvfPq:
        """Default parameters for a gallery of N entries.

        The number of lists is the power of two nearest to 2 sqrt(N); an eighth of them is probed.
        On the CPU, a code has 4 bits for 4 dimensions: faiss scans such codes with SIMD, several
        times faster than 8-bit codes of the same size, so more lists can be probed. If the width
        is not divisible, a code covers the next larger number of dimensions that divides it.

        On a GPU, a code has 8 bits for 8 dimensions, or for the next larger number that faiss
        supports there. A width for which it supports none has the codes of the CPU.
        """
        num_lists = 2 ** round(math.log2(2 * math.sqrt(num_entries)))
        num_probes = min(MAX_ON_GPU, max(1, num_lists // 8))
        on_gpu = [
            size
            for size in GPU_CODE_DIMENSIONS
            if size >= min(8, width) and width % size == 0 and width // size in GPU_CODE_BYTES
        ]
        if for_gpu and on_gpu:
            return IvfPq(num_lists, num_probes, width // on_gpu[0], 8)
        dimensions = next(n for n in range(min(4, width), width + 1) if width % n == 0)
        return IvfPq(num_lists, num_probes, width // dimensions, 4)


class GalleryIndex:
    """A gallery index in memory. Create it with `build` or `load`.

    Attributes:
        facts: the caller's metadata about the embeddings (learner, run, ...).
        codes: parameters of the IVF-PQ index, or None if the search is exact.
    """

    def __init__(
        self,
        index: Faiss,
        entries: pa.Table,
        facts: Mapping[str, Any],
        codes: IvfPq | None = None,
        vectors: Floats | None = None,
    ) -> None:
        self.facts = facts
        self.codes = codes
        self._index = index
        self._on_gpu = _gpu_copy(index)
        self._entries = entries
        self._vectors = vectors

    @staticmethod
    def build(
        features: Tensor,
        entries: Sequence[GalleryEntry],
        *,
        exact_below: int = 200_000,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> GalleryIndex:
        """Builds an index; deterministic for the same arguments and faiss version.

        Memory beyond `features`: one copy of the vectors in float32, two for exact search.

        Args:
            features: [N, D] float; L2-normalised here.
            entries: [N] metadata, in the order of `features`.
            exact_below: galleries with fewer entries are searched exactly, and so are those
                with fewer than 9,984, too few to train codes.
            seed: seed of the training sample of lists and codes, and of k-means.
            facts: JSON values that are saved with the index.

        Raises:
            ImportError: faiss is not installed.
            ValueError: an empty gallery, a different number of entries and features, or features
                that are not finite.
        """
        if not len(features) or len(features) != len(entries):
            raise ValueError(
                "expected at least one feature and one entry per feature, "
                f"got {len(features)} features and {len(entries)} entries"
            )
        faiss = _faiss()
        vectors = _normalised("gallery features", features)
        num_entries, width = vectors.shape
        table = _table(entries)
        if num_entries < max(exact_below, MIN_TRAINING_ENTRIES):
            index = faiss.IndexFlatIP(width)
            index.add(vectors)
            return GalleryIndex(index, table, dict(facts or {}))
        codes = IvfPq.for_gallery(num_entries, width, for_gpu=faiss.get_num_gpus() > 0)
        index = _train(faiss, vectors, codes, seed)
        index.add(vectors)
        return GalleryIndex(index, table, dict(facts or {}), codes, vectors)

    def __len__(self) -> int:
        return self._entries.num_rows

    @property
    def width(self) -> int:
        """Number of dimensions D of a feature."""
        return self._index.d

    @property
    def kind(self) -> str:
        """`flat` (exact) or `ivf-pq`."""
        return "flat" if self.codes is None else "ivf-pq"

    def entry(self, position: int) -> GalleryEntry:
        """The entry at a position of a search result."""
        (values,) = self._entries.slice(position, 1).to_pylist()
        return GalleryEntry(**values)

    def search(self, features: Tensor, k: int) -> SearchResult:
        """Returns the k most similar entries of each query, or all if the gallery has fewer.

        Ties are ordered by position. The result of a flat index equals sorting all similarities;
        the device may round similarities of equal vectors differently in the last bit.

        Args:
            features: [Q, D] float, from the network that embedded the gallery; L2-normalised
                here.
            k: number of results per query.

        Raises:
            ValueError: a different width, features that are not finite, or k below 1.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        queries = _normalised("query features", features)
        if queries.shape[1] != self.width:
            raise ValueError(
                f"query features: expected width {self.width}, that of this index "
                f"({json.dumps(dict(self.facts), default=str)}), got {queries.shape[1]}; "
                "embed queries with the network that embedded the gallery"
            )
        k = min(k, len(self))
        search = self._search_flat if self._vectors is None else self._search_codes
        similarities, positions = search(queries, k)
        return SearchResult(torch.from_numpy(similarities), torch.from_numpy(positions))

    def _search_flat(self, queries: Floats, k: int) -> tuple[Floats, Positions]:
        similarities = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        # faiss returns an arbitrary subset of the entries tied with the last result. If one entry
        # with a lower similarity is returned, all ties before it are included.
        todo, count = np.arange(len(queries)), min(k + 1, len(self))
        while len(todo):
            unfinished = [todo[:0]]
            for rows in _blocks(todo, count):
                values, indices = _ordered(*self._faiss_for(count).search(queries[rows], count))
                complete = (values[:, -1] < values[:, k - 1]) | (count == len(self))
                similarities[rows[complete]] = values[complete, :k]
                positions[rows[complete]] = indices[complete, :k]
                unfinished.append(rows[~complete])
            todo, count = np.concatenate(unfinished), min(2 * count, len(self))
        return similarities, positions

    def _search_codes(self, queries: Floats, k: int) -> tuple[Floats, Positions]:
        assert self._vectors is not None
        assert self.codes is not None
        count = min(len(self), max(MIN_CANDIDATES, CANDIDATES_PER_RESULT * k))
        similarities = np.empty((len(queries), k), np.float32)
        positions = np.empty((len(queries), k), np.int64)
        for rows in _blocks(np.arange(len(queries)), count * self.width):
            _, candidates = self._faiss_for(count).search(queries[rows], count)
            short = (candidates >= 0).sum(axis=1) < k
            if short.any():  # the probed lists have fewer than k entries: search all lists
                all_lists = _faiss().SearchParametersIVF(nprobe=self.codes.num_lists)
                _, candidates[short] = self._index.search(
                    queries[rows[short]], count, params=all_lists
                )
            exact = np.einsum("qcd,qd->qc", self._vectors[candidates], queries[rows])
            values, indices = _ordered(np.where(candidates >= 0, exact, -np.inf), candidates)
            similarities[rows], positions[rows] = values[:, :k], indices[:, :k]
        return similarities, positions

    def _faiss_for(self, count: int) -> Faiss:
        usable = self._on_gpu is not None and count <= MAX_ON_GPU
        return self._on_gpu if usable else self._index

    def save(self, folder: Path) -> None:
        """Writes the index and its entries; replaces an existing index atomically.

        If the writer is interrupted, the folder holds the old index or the new one. Only one
        process may write at a time.

        Raises:
            FileExistsError: the folder contains other files.
        """
        faiss = _faiss()
        description = {
            "kind": self.kind,
            "metric": "inner product of L2-normalised features",
            "num_entries": len(self),
            "width": self.width,
            "codes": None if self.codes is None else asdict(self.codes),
            "versions": {"faiss": faiss.__version__},
            "facts": dict(self.facts),
        }
        writers: dict[str, Callable[[Path], None]] = {
            "index.faiss": lambda path: faiss.write_index(self._index, str(path)),
            "entries.parquet": lambda path: parquet.write_table(self._entries, path),
        }
        if self._vectors is not None:
            vectors = self._vectors
            writers["vectors.npy"] = lambda path: np.save(path, vectors)
        replace_files(folder, description, writers)

    @staticmethod
    def load(folder: Path) -> GalleryIndex:
        """Loads a saved index; vectors for re-scoring are memory-mapped.

        Raises:
            FileNotFoundError: the folder has no index.
            ImportError: faiss is not installed.
            ValueError: the index is damaged, or of an unsupported version.
        """
        files = GalleryFiles.open(folder)
        faiss = _faiss()
        index = files.read("index.faiss", lambda path: faiss.read_index(str(path)))
        entries = files.read("entries.parquet", parquet.read_table)
        num_entries, width = files.description["num_entries"], files.description["width"]
        codes, vectors = None, None
        if files.description["kind"] == "ivf-pq":
            codes = IvfPq(**files.description["codes"])
            vectors = files.read("vectors.npy", lambda path: np.load(path, mmap_mode="r"))
        shapes = {(index.ntotal, index.d), (entries.num_rows, index.d)}
        shapes |= {(index.ntotal, index.d) if vectors is None else vectors.shape}
        if shapes != {(num_entries, width)}:
            raise ValueError(
                f"{folder}: the files of the gallery index do not match: expected "
                f"{num_entries} entries of width {width}, got {sorted(shapes)}; rebuild the index"
            )
        return GalleryIndex(index, entries, files.description["facts"], codes, vectors)


def _faiss() -> Faiss:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "the gallery index needs faiss, which is not installed; install this package with the "
            "`cpu` or `gpu` extra (or only faiss-cpu)"
        ) from error
    return faiss


def _normalised(name: str, features: Tensor) -> Floats:
    return np.ascontiguousarray(normalise_rows(name, features).float().cpu().numpy())


def _table(entries: Sequence[GalleryEntry]) -> pa.Table:
    return pa.table(
        {
            "image_path": pa.array([each.image_path for each in entries], pa.large_string()),
            "person_id": pa.array([each.person_id for each in entries], pa.int64()),
            "camera_id": pa.array([each.camera_id for each in entries], pa.int64()),
            "domain": pa.array([each.domain for each in entries]).dictionary_encode(),
        }
    )


def _train(faiss: Faiss, vectors: Floats, codes: IvfPq, seed: int) -> Faiss:
    """Returns an empty index whose lists and codes are trained on a random sample."""
    num_entries, width = vectors.shape
    index_class = faiss.IndexIVFPQFastScan if codes.num_bits == 4 else faiss.IndexIVFPQ
    index = index_class(
        faiss.IndexFlatIP(width),
        width,
        codes.num_lists,
        codes.num_subvectors,
        codes.num_bits,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.nprobe = codes.num_probes
    index.cp.spherical = True
    index.cp.seed = index.pq.cp.seed = seed
    num_sampled = min(num_entries, max(TRAINING_SAMPLE, TRAINING_SAMPLE_PER_LIST * codes.num_lists))
    sample = np.random.default_rng(seed).choice(num_entries, num_sampled, replace=False)
    index.train(vectors[np.sort(sample)])
    return index


def _gpu_copy(index: Faiss) -> Faiss | None:
    faiss = _faiss()
    if not faiss.get_num_gpus():
        return None
    options = faiss.GpuClonerOptions()
    # float16 lookup tables, because those of all codes do not fit side by side in float32. A flat
    # index stays in float32: float16 vectors would make its search inexact.
    options.useFloat16 = not isinstance(index, faiss.IndexFlat)
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
    except RuntimeError as error:
        log.warning(
            "searching the gallery index on the CPU: copying it to the GPU failed: %s", error
        )
        return None


def _blocks(rows: Positions, values_per_row: int) -> Iterator[Positions]:
    step = max(1, BLOCK_VALUES // values_per_row)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _ordered(similarities: Floats, positions: Positions) -> tuple[Floats, Positions]:
    """Sorts each row by decreasing similarity, ties by position."""
    order = np.lexsort((positions, -similarities))
    return (
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(positions, order, axis=1),
    )
