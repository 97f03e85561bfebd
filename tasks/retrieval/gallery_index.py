"""Search of a gallery by its embeddings: exact in small galleries, IVF-PQ in large ones.

Similarity is the inner product of L2-normalised features. Exact search is faiss's flat index. A
large gallery has its vectors in lists around k-means centres (IVF) as product-quantised codes
(PQ), and a query looks into an eighth of the lists. The best candidates by code are then compared
again by the vectors themselves, so the similarities of a result are exact whatever its recall.
The vectors for that stay out of faiss: a loaded index reads them from its file where they are
needed, and holds the codes (width / 8 bytes an entry) in memory.
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
from tasks.retrieval.normalised_features import unit_rows

log = logging.getLogger(__name__)

MIN_TRAINED = 39 * 256
"""Entries below which no codes are learned: faiss asks for 39 to each of 256 centres."""
SAMPLED, SAMPLED_PER_LIST = 65_536, 64
"""Entries that codes and lists are learned from, at most."""
MIN_CANDIDATES = 200
CANDIDATES_PER_RESULT = 10
BLOCK_VALUES = 2**24
"""Vector values or results that are held at once."""
MAX_ON_GPU = 2048
"""Results and probed lists beyond which faiss has no GPU search."""

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Faiss = Any  # imported inside the functions: an extra of the package, and slow to import


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """What is known of one gallery image; ids are the data set's own."""

    image_path: str
    person_id: int
    camera_id: int
    domain: str


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The k most similar entries of each query, best first, on the CPU.

    Attributes:
        similarities: [Q, k] float32 cosines.
        positions: [Q, k] long, places in the list of entries.
    """

    similarities: Tensor
    positions: Tensor


@dataclass(frozen=True)
class IvfPq:
    """How a large gallery is divided and coded.

    Attributes:
        num_lists: k-means centres.
        num_probes: nearest lists that a query looks into.
        num_subvectors: parts of a vector that have a code each.
        num_bits: of such a code.
    """

    num_lists: int
    num_probes: int
    num_subvectors: int
    num_bits: int

    @staticmethod
    def of(num_entries: int, width: int, *, for_gpu: bool = False) -> IvfPq:
        """The choice for a gallery.

        The power of two nearest to 2 sqrt(N) lists, an eighth of them probed. Without a GPU, codes
        of 4 bits for 4 dimensions, which faiss scans with SIMD (several times as fast as 8-bit
        codes of the same bytes, so that many lists can be probed); for a GPU, which has no such
        codes, 8 bits for 8 dimensions. Dimensions are more where the width has no such divisor.
        """
        num_lists = 2 ** round(math.log2(2 * math.sqrt(num_entries)))
        num_bits = 8 if for_gpu else 4
        dimensions = next(n for n in range(min(num_bits, width), width + 1) if width % n == 0)
        num_probes = min(MAX_ON_GPU, max(1, num_lists // 8))
        return IvfPq(num_lists, num_probes, width // dimensions, num_bits)


class GalleryIndex:
    """An index in memory; made by `build` and `load`.

    Attributes:
        facts: what the caller said of the embeddings (learner, run, ...).
        codes: how the vectors are coded, or None where the search is exact.
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
        """An index of these embeddings; the same again from the same arguments and faiss.

        Needs the vectors once more beside `features` in float32, twice for exact search.

        Args:
            features: [N, D] float, of any length: they are L2-normalised here.
            entries: N, in the same order.
            exact_below: galleries of fewer entries are searched exactly, and so are those of
                fewer than 9,984, from which no codes can be learned.
            seed: of the sample that lists and codes are learned from, and of k-means.
            facts: JSON values that are saved with the index.

        Raises:
            ImportError: faiss is not installed.
            ValueError: an empty gallery, entries that are not as many as features, or features
                that are not finite.
        """
        if not len(features) or len(features) != len(entries):
            raise ValueError(
                "expected at least one feature, and an entry for each, "
                f"got {len(features)} features and {len(entries)} entries"
            )
        faiss = _faiss()
        vectors = _vectors("gallery features", features)
        num_entries, width = vectors.shape
        table = _table(entries)
        if num_entries < max(exact_below, MIN_TRAINED):
            index = faiss.IndexFlatIP(width)
            index.add(vectors)
            return GalleryIndex(index, table, dict(facts or {}))
        codes = IvfPq.of(num_entries, width, for_gpu=faiss.get_num_gpus() > 0)
        index = _trained(faiss, vectors, codes, seed)
        index.add(vectors)
        return GalleryIndex(index, table, dict(facts or {}), codes, vectors)

    def __len__(self) -> int:
        return self._entries.num_rows

    @property
    def width(self) -> int:
        """Length D of a feature."""
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
        """The k most similar entries of each query, or all of a gallery that has fewer.

        Equal similarities come in the order of their position. A flat index misses none, so that
        the result is that of sorting all similarities; the device may round those of equal
        vectors differently in their last bit.

        Args:
            features: [Q, D] float of any length, by the network that embedded the gallery.
            k: results of a query.

        Raises:
            ValueError: another width, features that are not finite, or k below 1.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        queries = _vectors("query features", features)
        if queries.shape[1] != self.width:
            raise ValueError(
                f"expected query features of width {self.width}, as those of this index "
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
        # faiss takes any of the entries as similar as the last one it has room for. One entry that
        # is less similar shows that they all had room.
        todo, count = np.arange(len(queries)), min(k + 1, len(self))
        while len(todo):
            unfinished = [todo[:0]]
            for rows in _blocks(todo, count):
                found = _ordered(*self._faiss_for(count).search(queries[rows], count))
                whole = (found[0][:, -1] < found[0][:, k - 1]) | (count == len(self))
                similarities[rows[whole]] = found[0][whole, :k]
                positions[rows[whole]] = found[1][whole, :k]
                unfinished.append(rows[~whole])
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
            if short.any():  # the probed lists have fewer entries than are asked for
                every = _faiss().SearchParametersIVF(nprobe=self.codes.num_lists)
                _, candidates[short] = self._index.search(queries[rows[short]], count, params=every)
            exact = np.einsum("qcd,qd->qc", self._vectors[candidates], queries[rows])
            found = _ordered(np.where(candidates >= 0, exact, -np.inf), candidates)
            similarities[rows], positions[rows] = found[0][:, :k], found[1][:, :k]
        return similarities, positions

    def _faiss_for(self, count: int) -> Faiss:
        usable = self._on_gpu is not None and count <= MAX_ON_GPU
        return self._on_gpu if usable else self._index

    def save(self, folder: Path) -> None:
        """Writes the index and its entries; an index that is there is replaced as a whole.

        The folder holds the old index or the new one, whenever the writer stops. One writer at
        a time.

        Raises:
            FileExistsError: the folder holds something else.
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
        """A saved index; vectors that only refine results stay in their file.

        Raises:
            FileNotFoundError: no index is there.
            ImportError: faiss is not installed.
            ValueError: the index is damaged, or of a version that is not known here.
        """
        files = GalleryFiles.of(folder)
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
                f"{folder}: the files of the gallery index do not belong together (expected "
                f"{num_entries} entries of width {width}, found {sorted(shapes)}); build it again"
            )
        return GalleryIndex(index, entries, files.description["facts"], codes, vectors)


def _faiss() -> Faiss:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "the gallery index needs faiss, which is not installed; install this package with its "
            "`cpu` or its `gpu` extra (or faiss-cpu alone)"
        ) from error
    return faiss


def _vectors(name: str, features: Tensor) -> Floats:
    return np.ascontiguousarray(unit_rows(name, features).float().cpu().numpy())


def _table(entries: Sequence[GalleryEntry]) -> pa.Table:
    return pa.table(
        {
            "image_path": pa.array([each.image_path for each in entries], pa.large_string()),
            "person_id": pa.array([each.person_id for each in entries], pa.int64()),
            "camera_id": pa.array([each.camera_id for each in entries], pa.int64()),
            "domain": pa.array([each.domain for each in entries]).dictionary_encode(),
        }
    )


def _trained(faiss: Faiss, vectors: Floats, codes: IvfPq, seed: int) -> Faiss:
    """An empty index whose lists and codes are learned from a seeded sample."""
    num_entries, width = vectors.shape
    fast = codes.num_bits == 4
    kind = faiss.IndexIVFPQFastScan if fast else faiss.IndexIVFPQ
    index = kind(
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
    num_sampled = min(num_entries, max(SAMPLED, SAMPLED_PER_LIST * codes.num_lists))
    sampled = np.random.default_rng(seed).choice(num_entries, num_sampled, replace=False)
    index.train(vectors[np.sort(sampled)])
    return index


def _gpu_copy(index: Faiss) -> Faiss | None:
    faiss = _faiss()
    if not faiss.get_num_gpus():
        return None
    options = faiss.GpuClonerOptions()
    # Of the look-up tables of codes, which else do not fit beside one another. Vectors of a flat
    # index would lose their exactness.
    options.useFloat16 = not isinstance(index, faiss.IndexFlat)
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
    except RuntimeError as error:
        log.warning("the gallery index is searched on the CPU: the GPU refused it (%s)", error)
        return None


def _blocks(rows: Positions, values_per_row: int) -> Iterator[Positions]:
    step = max(1, BLOCK_VALUES // values_per_row)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _ordered(similarities: Floats, positions: Positions) -> tuple[Floats, Positions]:
    """Each row best first, equal ones by position."""
    order = np.lexsort((positions, -similarities))
    return (
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(positions, order, axis=1),
    )
