"""Style clustering: which captions are written alike, as one style number per caption."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

NOISE = -1
"""What the density methods call a caption that belongs to no cluster."""


@dataclass(frozen=True, slots=True)
class StyleOptions:
    """What the methods take; each reads only its own.

    Attributes:
        num_styles: of random, kmeans, GMM and agglomerative; at least 1.
        eps: cosine distance at which DBSCAN calls two captions neighbours, in (0, 2].
        min_samples: neighbours, itself included, that make a caption a core one (DBSCAN, HDBSCAN).
        min_cluster_size: clusters with fewer captions are merged into the nearest, whatever the
            method; HDBSCAN also begins with it. At least 1.
        seed: of random, kmeans and GMM.
    """

    num_styles: int = 8
    eps: float = 0.15
    min_samples: int = 5
    min_cluster_size: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_styles", "min_samples", "min_cluster_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.eps <= 2:
            raise ValueError(f"eps: expected a cosine distance in (0, 2], got {self.eps}")


def style_methods() -> list[str]:
    """Every method that `cluster` knows."""
    return list(_methods())


def cluster(embeddings: Floats, method: str, options: StyleOptions | None = None) -> Labels:
    """A style for every caption: DBSCAN on cosine distances, or one of its alternatives.

    Rows are brought to unit length first, so that Euclidean distances order them as cosines do.
    What a density method calls noise goes to the cluster whose mean direction is nearest; then, as
    long as there are two clusters and one is under `min_cluster_size`, the smallest is merged into
    the nearest. With nothing but noise there is one style.

    The order of the rows does not matter, for any method: they are clustered in an order of their
    own. Two equal rows may still get two styles from `random`, whose styles are drawn row by row.

    Args:
        embeddings: [N, D] of the captions' wording, N and D at least 1.
        method: one of `style_methods()`.
        options: numbers of the methods; None: the defaults.

    Returns:
        [N] styles 0..S-1, each of them used.

    Raises:
        ValueError: an unknown method, a wrong shape, a row that is not finite or has no direction,
            or fewer captions (but more than one) than `num_styles`.
    """
    options = options or StyleOptions()
    methods = _methods()
    if method not in methods:
        near = difflib.get_close_matches(method, methods, n=1)
        raise ValueError(
            f"style method: expected one of {', '.join(methods)}; got {method!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    rows = _unit_rows(embeddings)
    if len(rows) == 1:  # which some of the methods refuse
        return np.zeros(1, dtype=np.int64)
    # The density methods give a border point to the first cluster that reaches it, and k-means
    # draws its first centres by position: an order that depends on the values alone removes both.
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    found = _without_noise(ordered, np.asarray(methods[method](ordered, options), dtype=np.int64))
    labels = np.empty(len(rows), dtype=np.int64)
    labels[order] = _merged(ordered, found, options.min_cluster_size)
    return labels


def _unit_rows(embeddings: Floats) -> Floats:
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"expected embeddings [N, D] of at least one caption, got {rows.shape}")
    if not (finite := np.isfinite(rows).all(axis=1)).all():
        raise ValueError(f"the embedding of caption {int(np.argmin(finite))} is not finite")
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise ValueError(
            f"the embedding of caption {int(np.argmin(largest[:, 0]))} is zero: it has no direction"
        )
    rows = rows / largest  # squares of very small or large numbers would leave the range
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _without_noise(rows: Floats, labels: Labels) -> Labels:
    """Labels 0..S-1 in the order of their first use; noise goes to the nearest cluster."""
    noise = labels == NOISE
    if noise.all():
        return np.zeros(len(rows), dtype=np.int64)
    kept = _renumbered(labels[~noise])
    labels = labels.copy()
    labels[~noise] = kept
    # All at once, to the clusters as they were found: who is moved first changes nothing.
    labels[noise] = (rows[noise] @ _directions(rows[~noise], kept).T).argmax(axis=1)
    return _renumbered(labels)


def _merged(rows: Floats, labels: Labels, min_cluster_size: int) -> Labels:
    while True:
        sizes = np.bincount(labels)
        if len(sizes) == 1 or sizes.min() >= min_cluster_size:
            return labels
        smallest = int(sizes.argmin())
        directions = _directions(rows, labels)
        similarity = directions @ directions[smallest]
        similarity[smallest] = -np.inf
        labels = np.where(labels == smallest, int(similarity.argmax()), labels)
        labels = _renumbered(labels)


def _directions(rows: Floats, labels: Labels) -> Floats:
    """[S, D] unit means of the clusters; zero where a mean has no direction."""
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 1e-12)


def _renumbered(labels: Labels) -> Labels:
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


# scikit-learn takes a second to load, which a run that clusters nothing is not to pay for.


def _k_means(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import KMeans

    _check_enough(rows, options)
    # More clusters than different captions is a warning of the library's; the empty ones vanish.
    num_styles = min(options.num_styles, len(np.unique(rows, axis=0)))
    return KMeans(num_styles, random_state=options.seed).fit_predict(rows)


def _gmm(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.mixture import GaussianMixture

    _check_enough(rows, options)
    num_styles = min(options.num_styles, len(np.unique(rows, axis=0)))
    # Diagonal: a full covariance of 512 numbers needs far more captions than a style has.
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
        copy=True,  # pyright: ignore[reportArgumentType]  # guessed from the default, a string
    )
    return np.asarray(model.fit_predict(rows), dtype=np.int64)


def _dbscan(rows: Floats, options: StyleOptions) -> Labels:
    from sklearn.cluster import DBSCAN

    model = DBSCAN(eps=options.eps, min_samples=options.min_samples, metric="cosine")
    return model.fit_predict(rows)


def _check_enough(rows: Floats, options: StyleOptions) -> None:
    if len(rows) < options.num_styles:
        raise ValueError(
            f"num_styles: expected at most the number of captions, {len(rows)}; got "
            f"{options.num_styles}"
        )
