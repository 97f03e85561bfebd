"""The bench of the gallery index: its data, its recall, and a small run."""

from __future__ import annotations

import faiss
import pytest
import torch

from runner.bench import gallery_index as index  # RENAMED
from runner.bench.workbench import Sizes, Workbench


def test_recall_counts_the_exact_results_that_were_found():
    exact = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = torch.tensor([[4, 3, 2, 1], [5, 9, 9, 0]])
    assert index.recall(exact, found) == (4 + 1) / 8
    assert index.recall(exact[:, :1], found[:, :1]) == 1 / 2


def test_the_vectors_are_as_their_description_says():
    gallery, queries = index.clustered_features(4000, 50)
    assert torch.equal(gallery, index.clustered_features(4000, 50)[0])
    unit = torch.nn.functional.normalize(gallery)
    best = (torch.nn.functional.normalize(queries) @ unit.T).sort(dim=1, descending=True).values
    # A person has 20 images on average; the others are far away.
    assert best[:, :8].mean().item() == pytest.approx(0.75, abs=0.04)
    assert best[:, 200].mean().item() < 0.4
    variances = torch.linalg.eigvalsh(torch.cov(gallery.T)).flip(0)
    assert (variances[0] / variances[9]).item() == pytest.approx(10, rel=0.3)


@pytest.fixture
def one_thread():
    """Threads of so little work wait for one another, seconds where others use the CPUs too."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def test_indexing_at_a_small_scale(tmp_path, one_thread):
    sizes = Sizes.quick()
    assert sizes.num_indexed_vectors < 20_000
    found = index.measure(Workbench(tmp_path, repeats=2, sizes=sizes))
    values = {each.name: each for each in found.measurements}
    variants = [f"index.{variant}" for variant in ("exact", "ivf_pq")]
    names = {f"{name}.{what}" for name in variants for what in ("build", "search", "one_query")}
    assert set(values) == names | {"index.ivf_pq.recall@1", "index.ivf_pq.recall@10"}
    assert len(values["index.ivf_pq.search"].values) == 2
    assert all(value > 0 for each in found.measurements for value in each.values)
    assert 0.8 < values["index.ivf_pq.recall@1"].median <= 1
    assert [each.name for each in found.ratios] == ["index.search.ivf_pq / exact"]
