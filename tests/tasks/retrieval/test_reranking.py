"""Re-ranked distances against a naive implementation of the definitions."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval import reranking
from tasks.retrieval.ranking import evaluate_ranking, rank_rows
from tasks.retrieval.reranking import RerankingConfig, evaluate_reranked, reranked_rows


def naive_distances(query, gallery, k1, k2, weight):
    """Steps 1 to 6 of the module for every pair, with dense matrices."""
    images = torch.cat([query, gallery]).double().numpy()
    images = [row / math.sqrt(sum(row * row)) for row in images]
    everyone = range(len(images))
    squared = [[float(sum((images[i] - images[j]) ** 2)) for j in everyone] for i in everyone]
    d = [[value / (max(row) or 1.0) for value in row] for row in squared]
    ranked = [sorted(everyone, key=lambda j, i=i: (j != i, squared[i][j], j)) for i in everyone]

    def mutual(i, k):
        return {j for j in ranked[i][: k + 1] if i in ranked[j][: k + 1]}

    V = np.zeros((len(images), len(images)))
    for i in everyone:
        reciprocal = mutual(i, k1)
        members = set(reciprocal)
        for j in reciprocal:
            other = mutual(j, round(k1 / 2))
            if 3 * len(reciprocal & other) > 2 * len(other):
                members |= other
        for j in members:
            V[i, j] = math.exp(-d[i][j])
        V[i] /= V[i].sum()
    V = np.array([np.mean([V[j] for j in ranked[i][:k2]], axis=0) for i in everyone])

    def final(q, g):
        jaccard = 1 - np.minimum(V[q], V[g]).sum() / np.maximum(V[q], V[g]).sum()
        return (1 - weight) * jaccard + weight * d[q][g]

    return np.array(
        [[final(q, len(query) + g) for g in range(len(gallery))] for q in range(len(query))]
    )


def distances(query, gallery, chunk=256, **values):
    rows = reranked_rows(query, gallery, settings=RerankingConfig(**values), chunk=chunk)
    return -rows(0, len(query)).numpy()


def clustered(rng, count, num_persons=6, width=5):
    centres = rng.normal(size=(num_persons, width))
    features = centres[rng.integers(0, num_persons, count)] + 0.5 * rng.normal(size=(count, width))
    return torch.from_numpy(features)


def repeated(rng, count):
    """Samples of 24 vectors whose products are exact: many duplicates and ties."""
    halves = np.array(np.meshgrid(*[[-0.5, 0.5]] * 4)).reshape(4, -1).T
    vectors = np.concatenate([halves, np.eye(4), -np.eye(4)])
    return torch.from_numpy(vectors[rng.integers(0, len(vectors), count)])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    draw=st.sampled_from([clustered, repeated]),
    num_queries=st.integers(1, 6),
    num_gallery=st.integers(1, 34),
    k1=st.integers(1, 14),
    k2=st.integers(1, 8),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    chunk=st.sampled_from([1, 7, 256]),
)
def test_agrees_with_the_definitions_including_duplicates_and_ties(
    seed, draw, num_queries, num_gallery, k1, k2, weight, chunk
):
    rng = np.random.default_rng(seed)
    query, gallery = draw(rng, num_queries), draw(rng, num_gallery)
    found = distances(query, gallery, chunk, k1=k1, k2=k2, weight=weight)
    expected = naive_distances(query, gallery, k1, k2, weight)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_agrees_in_float32_with_the_papers_settings():
    rng = np.random.default_rng(0)
    query = clustered(rng, 12, num_persons=9, width=32).float()
    gallery = clustered(rng, 90, num_persons=9, width=32).float()
    found = distances(query, gallery)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, naive_distances(query, gallery, 20, 6, 0.3), rtol=0, atol=1e-6
    )


def test_results_do_not_depend_on_block_sizes(monkeypatch):
    rng = np.random.default_rng(1)
    query, gallery = repeated(rng, 8), repeated(rng, 50)
    whole = distances(query, gallery, k1=6, k2=3)
    monkeypatch.setattr(reranking, "SET_ROWS", 7)
    monkeypatch.setattr(reranking, "PAIR_VALUES", 13)
    monkeypatch.setattr(reranking, "TIED_ROWS", 3)
    np.testing.assert_array_equal(distances(query, gallery, k1=6, k2=3, chunk=11), whole)
    rows = reranked_rows(query, gallery, settings=RerankingConfig(k1=6, k2=3))
    apart = torch.cat([rows(0, 3), rows(3, 4), rows(4, 8)])
    np.testing.assert_array_equal(-apart.numpy(), whole)


def test_weight_1_equals_the_ranking_without_reranking():
    rng = np.random.default_rng(2)
    query, gallery = clustered(rng, 20), clustered(rng, 100)
    ids = rng.integers(0, 6, 20), rng.integers(0, 6, 100), rng.integers(0, 3, 20)
    cameras = ids[2], rng.integers(0, 3, 100)
    unit = [torch.nn.functional.normalize(each) for each in (query, gallery)]
    plain = evaluate_ranking(*unit, *ids[:2], *cameras)
    found = evaluate_reranked(
        query, gallery, *ids[:2], *cameras, settings=RerankingConfig(weight=1.0), chunk=6
    )
    assert found.percent() == plain.percent()
    assert found.num_valid_queries == plain.num_valid_queries


def test_scores_are_computed_from_the_final_distances():
    rng = np.random.default_rng(3)
    query, gallery = clustered(rng, 15), clustered(rng, 60)
    ids = rng.integers(0, 6, 15), rng.integers(0, 6, 60)
    cameras = rng.integers(0, 3, 15), rng.integers(0, 3, 60)
    expected = torch.from_numpy(-naive_distances(query, gallery, 5, 3, 0.3))
    found = evaluate_reranked(
        query, gallery, *ids, *cameras, settings=RerankingConfig(k1=5, k2=3), chunk=4
    )
    wanted = rank_rows(lambda start, stop: expected[start:stop], *ids, *cameras)
    assert found.percent() == pytest.approx(wanted.percent(), abs=1e-9)


def test_reranking_improves_clustered_features():
    rng = np.random.default_rng(6)
    ids = np.arange(400) % 20
    centres = rng.normal(size=(20, 16))
    features = torch.from_numpy(centres[ids] + 0.9 * rng.normal(size=(400, 16)))
    features = torch.nn.functional.normalize(features)
    sides = features[:40], features[40:], ids[:40], ids[40:]
    plain = evaluate_ranking(*sides)
    assert evaluate_reranked(*sides, settings=RerankingConfig()).mAP > plain.mAP + 0.03


def test_identical_images_have_distance_0():
    found = distances(torch.ones(2, 3), torch.ones(5, 3), k1=10)
    np.testing.assert_allclose(found, 0, atol=1e-7)


def test_half_precision_autocast_and_norm_do_not_change_distances():
    rng = np.random.default_rng(4)
    query, gallery = clustered(rng, 5).bfloat16(), clustered(rng, 30).bfloat16()
    expected = distances(query.float(), gallery.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distances(query * 4, gallery.requires_grad_())
    np.testing.assert_array_equal(found, expected)


MEMORY = """
import resource
import torch
from tasks.retrieval.reranking import RerankingConfig, evaluate_reranked

def run(num_queries, num_gallery):
    ids = torch.arange(num_queries + num_gallery) % (num_gallery // 12)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(num_gallery // 12, 16, generator=generator)
    noise = torch.randn(len(ids), 16, generator=generator)
    features = centres[ids] + 0.4 * noise
    arguments = [*features.split([num_queries, num_gallery])]
    arguments += [*ids.split([num_queries, num_gallery])]
    evaluate_reranked(*arguments, settings=RerankingConfig(), chunk=64)

run(50, 500)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(1000, 9000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_less_than_an_all_pairs_matrix():
    """For 10,000 images, such a matrix needs 100 MB in bytes and 400 MB in float32."""
    child = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert int(child.stdout) * 1024 < 60e6


@pytest.mark.gpu
def test_cuda_agrees_with_cpu():
    rng = np.random.default_rng(5)
    for draw in (clustered, repeated):
        query, gallery = draw(rng, 20), draw(rng, 200)
        rows = reranked_rows(query.cuda(), gallery.cuda(), settings=RerankingConfig())
        found = rows(0, 20)
        assert found.device.type == "cuda"
        np.testing.assert_allclose(-found.cpu().numpy(), distances(query, gallery), atol=1e-9)


def test_reranking_is_disabled_by_default():
    assert not RerankingConfig().enabled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_features": torch.ones(3, 5)}, r"features of the same width.*\[2, 4\].*\[3, 5\]"),
        ({"query_features": torch.ones(2)}, r"query_features: expected a \[N, D\] float tensor"),
        ({"gallery_features": torch.ones(3, 4).long()}, "gallery_features: .* of torch.int64"),
        ({"gallery_features": torch.ones(0, 4), "gallery_ids": []}, "at least one .* got 2 and 0"),
        ({"query_features": torch.tensor([[1.0], [math.nan]])}, "query_features: .* row 1"),
        ({"query_ids": [1]}, "query_ids: expected 2 .*got 1"),
        ({"gallery_ids": [1] * 4}, "gallery_ids: expected 3 .*got 4"),
        ({"query_cameras": [1, 2]}, "got only query_cameras"),
        ({"chunk": 0}, "chunk: expected at least 1"),
    ],
)
def test_invalid_inputs_are_refused(changes, message):
    arguments = {
        "query_features": torch.ones(2, 4),
        "gallery_features": torch.ones(3, 4),
        "query_ids": [0, 1],
        "gallery_ids": [0, 1, 2],
        "settings": RerankingConfig(),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_reranked(**(arguments | changes))
