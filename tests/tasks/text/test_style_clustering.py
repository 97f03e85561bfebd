from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.style_clustering import StyleOptions, cluster, style_methods

methods = pytest.mark.parametrize("method", style_methods())


def blobs(sizes: list[int], spread: float = 0.02, width: int = 16, seed: int = 0) -> np.ndarray:
    """Rows of different norms around orthogonal directions, one direction per size."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.eye(width)[: len(sizes)], sizes, axis=0)
    rows = centres + spread * rng.normal(size=centres.shape)
    return rows * rng.uniform(0.5, 3, size=(len(rows), 1))


def same_grouping(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(((first[:, None] == first) == (second[:, None] == second)).all())


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "num_rows": st.integers(1, 40),
        "width": st.integers(1, 6),
        "num_styles": st.integers(1, 6),
        "min_cluster_size": st.integers(1, 12),
        "eps": st.floats(0.01, 1.5),
    }
)


def sample_case(case: dict) -> tuple[np.ndarray, StyleOptions]:
    rows = np.random.default_rng(case["seed"]).normal(size=(case["num_rows"], case["width"]))
    options = StyleOptions(
        num_styles=min(case["num_styles"], case["num_rows"]),
        min_cluster_size=case["min_cluster_size"],
        eps=case["eps"],
        min_samples=3,
    )
    return rows, options


@methods
@settings(max_examples=25, deadline=None)
@given(cases)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_are_consecutive_and_styles_not_too_small(method: str, case: dict) -> None:
    rows, options = sample_case(case)
    labels = cluster(rows, method, options)
    sizes = np.bincount(labels, minlength=1)
    assert labels.shape == (len(rows),)
    assert labels.min() == 0
    assert (sizes > 0).all()
    assert len(sizes) == 1 or sizes.min() >= options.min_cluster_size


@methods
@settings(max_examples=25, deadline=None)
@given(cases, st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_do_not_depend_on_the_order_of_captions(method: str, case: dict, random) -> None:
    rows, options = sample_case(case)
    if case["width"] == 1:
        return  # only two directions, so rows are equal, and `random` labels equal rows differently
    order = list(range(len(rows)))
    random.shuffle(order)
    assert (cluster(rows[order], method, options) == cluster(rows, method, options)[order]).all()


@pytest.mark.parametrize("method", ["kmeans", "gmm", "agglomerative", "hdbscan", "dbscan"])
def test_separated_groups_are_recovered_for_any_row_norms(method: str) -> None:
    truth = np.repeat([0, 1, 2], [12, 9, 15])
    labels = cluster(blobs([12, 9, 15]), method, StyleOptions(num_styles=3))
    assert same_grouping(labels, truth)


def test_none_has_one_style_and_random_has_num_styles() -> None:
    rows = blobs([30, 30])
    assert set(cluster(rows, "none")) == {0}
    options = StyleOptions(num_styles=4, min_cluster_size=1)
    assert set(cluster(rows, "random", options)) == {0, 1, 2, 3}
    assert not same_grouping(cluster(rows, "random", options), np.repeat([0, 1], 30))


@pytest.mark.parametrize("method", ["random", "kmeans", "gmm"])
def test_results_depend_on_the_seed(method: str) -> None:
    rows = np.random.default_rng(3).normal(size=(60, 5))
    first, again, other = (
        cluster(rows, method, StyleOptions(seed=seed, min_cluster_size=1)) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert not same_grouping(first, other)


@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_noise_is_assigned_to_the_nearest_cluster(method: str) -> None:
    outliers = np.zeros((2, 16))
    outliers[0, [0, 5]] = 1, 0.9  # nearer to the first group than to the second
    outliers[1, [1, 6]] = 1, 0.9
    labels = cluster(np.vstack([blobs([12, 12]), outliers]), method, StyleOptions(eps=0.05))
    assert labels[-2] == labels[0] != labels[12] == labels[-1]


def test_only_noise_is_one_style() -> None:
    assert set(cluster(np.eye(7), "dbscan", StyleOptions(eps=0.1))) == {0}
    assert set(cluster(np.eye(7), "hdbscan")) == {0}


def test_a_small_cluster_is_merged_into_the_nearest() -> None:
    rows = blobs([12, 12, 3], spread=0.01)
    rows[-3:, 1] = np.abs(rows[-3:]).max(axis=1)  # between its own direction and the second group's
    options = StyleOptions(num_styles=3, min_cluster_size=4)
    labels = cluster(rows, "agglomerative", options)
    assert same_grouping(labels, np.repeat([0, 1, 1], [12, 12, 3]))
    kept = cluster(rows, "agglomerative", StyleOptions(num_styles=3, min_cluster_size=3))
    assert same_grouping(kept, np.repeat([0, 1, 2], [12, 12, 3]))


@methods
def test_equal_captions(method: str) -> None:
    labels = cluster(np.ones((20, 4)), method, StyleOptions(num_styles=3))
    assert labels.shape == (20,)
    assert method in ("random", "agglomerative") or set(labels) == {0}


def test_very_small_and_large_values() -> None:
    rows = np.vstack([1e-300 * blobs([10]), 1e300 * np.roll(blobs([10]), 1, axis=1)])
    assert same_grouping(cluster(rows, "dbscan"), np.repeat([0, 1], 10))


def test_invalid_inputs_are_refused() -> None:
    rows = blobs([6, 6])
    with pytest.raises(ValueError, match=r"one of none, random, kmeans, .*did you mean kmeans"):
        cluster(rows, "k-means")
    with pytest.raises(ValueError, match=r"embeddings: expected \[N, D\] .*got \(0, 4\)"):
        cluster(np.empty((0, 4)), "none")
    with pytest.raises(ValueError, match=r"got \(12,\)"):
        cluster(rows[:, 0], "none")
    with pytest.raises(ValueError, match=r"expected finite values.*row 3"):
        cluster(np.where(np.arange(12)[:, None] == 3, np.nan, rows), "dbscan")
    with pytest.raises(ValueError, match=r"zeros in row 2"):
        cluster(np.where(np.arange(12)[:, None] == 2, 0, rows), "dbscan")
    with pytest.raises(ValueError, match=r"num_styles: expected at most .*12; got 13"):
        cluster(rows, "kmeans", StyleOptions(num_styles=13))
    with pytest.raises(ValueError, match=r"eps: expected .*got 0"):
        StyleOptions(eps=0)
    with pytest.raises(ValueError, match=r"min_cluster_size: expected at least 1, got 0"):
        StyleOptions(min_cluster_size=0)
