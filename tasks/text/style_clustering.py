"""Clustering of caption embeddings into writing styles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.suggestion import suggestion

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_EPS_SHARE, _MIN_EPS = 0.25, 1e-6

NOISE = -1
"""Label of the density-based methods for a caption that belongs to no cluster."""


@dataclass(frozen=True, slots=True)
class StyleOptions:
    """Options of the clustering methods; each method uses a subset.

    Attributes:
        num_styles: number of clusters of random, kmeans, gmm and agglomerative; at least 1.
        eps: maximum cosine distance of two neighbours in DBSCAN, in (0, 2]; None: a quarter of the
            median distance of two captions, because the spread of embeddings depends on their
            encoder.
        min_samples: number of neighbours, including itself, of a core caption (DBSCAN, HDBSCAN).
        min_cluster_size: smaller clusters are merged into the nearest one, for every method; also
            a parameter of HDBSCAN. At least 1.
        seed: seed of random, kmeans and gmm.
    """

    num_styles: int = 8
    eps: float | None = None
    min_samples: int = 5
    min_cluster_size: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_styles", "min_samples", "min_cluster_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.eps is not None and not 0 < self.eps <= 2:
            raise ValueError(f"eps: expected a cosine distance in (0, 2], got {self.eps}")


def style_methods() -> list[str]:
    """Names of the methods of `cluster`."""
    return list(_methods())


def cluster(embeddings: Floats, method: str, options: StyleOptions | None = None) -> Labels:
    """Clusters caption embeddings with DBSCAN on cosine distances, or an alternative method.

    Rows are L2-normalised first, so that Euclidean and cosine distances have the same order.
    Noise of the density-based methods is assigned to the cluster with the nearest mean direction.
    Then, while there are at least two clusters and one is smaller than `min_cluster_size`, the
    smallest is merged into the nearest. If all captions are noise, there is one style.

    The result does not depend on the order of the rows, for any method: they are sorted before
    clustering. Equal rows may still get different styles from `random`, which samples per row.

    Args:
        embeddings: [N, D] embeddings of masked captions, N and D at least 1.
        method: one of `style_methods()`.
        options: options of the methods; None for the defaults.

    Returns:
        [N] labels 0..S-1, each used at least once.

    Raises:
        ValueError: an unknown method, an unexpected shape, a row that is zero or not finite, or
            more than one but fewer than `num_styles` captions.
    """
    options = options or StyleOptions()
    methods = _methods()
    if method not in methods:
        raise ValueError(
            f"style method: expected one of {', '.join(methods)}; got {method!r}"
            + suggestion(method, methods)
        )
    rows = _normalise_rows(embeddings)
    if len(rows) == 1:  # not supported by some of the methods
        return np.zeros(1, dtype=np.int64)
    # Density-based methods assign a border point to the first cluster that reaches it, and k-means
    # samples its initial centres by position. Sorting the rows by value makes both deterministic.
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    clustered = np.asarray(methods[method](ordered, options), dtype=np.int64)
    clustered = _assign_noise(ordered, clustered)
    labels = np.empty(len(rows), dtype=np.int64)
    labels[order] = _merge_small(ordered, clustered, options.min_cluster_size)
    return labels


def _normalise_rows(embeddings: Floats) -> Floats:
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"embeddings: expected [N, D] with N, D >= 1, got {rows.shape}")
    if not (finite := np.isfinite(rows).all(axis=1)).all():
        raise ValueError(
            f"embeddings: expected finite values, got NaN or infinity in row "
            f"{int(np.argmin(finite))}"
        )
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise ValueError(
            f"embeddings: expected non-zero rows, got zeros in row {int(np.argmin(largest[:, 0]))}"
        )
    rows = rows / largest  # avoids underflow and overflow of squares
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _assign_noise(rows: Floats, labels: Labels) -> Labels:
    """Assigns noise to the nearest cluster; returns labels 0..S-1 in order of first use."""
    noise = labels == NOISE
    if noise.all():
        return np.zeros(len(rows), dtype=np.int64)
    kept = _renumber(labels[~noise])
    labels = labels.copy()
    labels[~noise] = kept
    # All at once, to the original clusters, so the result does not depend on the order.
    labels[noise] = (rows[noise] @ _directions(rows[~noise], kept).T).argmax(axis=1)
    return _renumber(labels)


def _merge_small(rows: Floats, labels: Labels, min_cluster_size: int) -> Labels:
    while True:
        sizes = np.bincount(labels)
        if len(sizes) == 1 or sizes.min() >= min_cluster_size:
            return labels
        smallest = int(sizes.argmin())
        directions = _directions(rows, labels)
        similarity = directions @ directions[smallest]
        similarity[smallest] = -np.inf
        labels = np.where(labels == smallest, int(similarity.argmax()), labels)
        labels = _renumber(labels)


def _directions(rows: Floats, labels: Labels) -> Floats:
    """[S, D] normalised means of the clusters; zero if a mean is zero."""
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 1e-12)


def _renumber(labels: Labels) -> Labels:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), dtype=np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks[inverse]


def _methods() -> Mapping[str, Callable[[Floats, StyleOptions], npt.NDArray[np.integer]]]:
    return {
        "none": _none,
        "random": _random,
        "kmeans": _k_means,
        "gmm": _gmm,
        "agglomerative": _agglomerative,
        "hdbscan": _hdbscan,
        "dbscan": _dbscan,
    }


def _none(rows: Floats, _: StyleOptions) -> Labels:
    return np.zeros(len(rows), dtype=np.int64)


def _random(rows: Floats, options: StyleOptions) -> Labels:
    return np.random.default_rng(options.seed).integers(options.num_styles, size=len(rows))


# scikit-learn takes a second to import, so it is imported only where it is used.


def _k_means(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import KMeans

    _check_enough(rows, options)
    # scikit-learn warns if there are more clusters than distinct rows.
    num_styles = min(options.num_styles, len(np.unique(rows, axis=0)))
    return KMeans(num_styles, random_state=options.seed).fit_predict(rows)


def _gmm(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.mixture import GaussianMixture

    _check_enough(rows, options)
    num_styles = min(options.num_styles, len(np.unique(rows, axis=0)))
    # Diagonal: a full covariance of 512 dimensions needs far more captions than a style has.
    mixture = GaussianMixture(
        num_styles,
        covariance_type="diag",
        reg_covar=1e-5,
        max_iter=300,
        random_state=options.seed,
    )
    return mixture.fit_predict(rows)


def _agglomerative(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import AgglomerativeClustering

    _check_enough(rows, options)
    model = AgglomerativeClustering(options.num_styles, metric="cosine", linkage="average")
    return model.fit_predict(rows)


def _hdbscan(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import HDBSCAN

    smallest = max(2, options.min_cluster_size)
    if len(rows) < max(smallest, options.min_samples):
        return np.full(len(rows), NOISE)
    model = HDBSCAN(
        min_cluster_size=smallest,
        min_samples=options.min_samples,
        copy=True,  # pyright: ignore[reportArgumentType]  # type inferred from the string default
    )
    return np.asarray(model.fit_predict(rows), dtype=np.int64)


def _dbscan(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import DBSCAN

    eps = options.eps or max(_EPS_SHARE * _median_distance(rows), _MIN_EPS)
    model = DBSCAN(eps=eps, min_samples=options.min_samples, metric="cosine")
    return model.fit_predict(rows)


def _median_distance(rows: Floats) -> float:
    """Median cosine distance of two different rows, estimated from at most 1,000 of them."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), 1000)).astype(int)]
    distances = 1 - chosen @ chosen.T
    return float(np.median(distances[np.triu_indices(len(chosen), 1)]))


def _check_enough(rows: Floats, options: StyleOptions) -> None:
    if len(rows) < options.num_styles:
        raise ValueError(
            f"num_styles: expected at most the number of captions, {len(rows)}; got "
            f"{options.num_styles}"
        )
