"""Ranking scores against a naive implementation of the definitions."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval.ranking import evaluate_ranking, rank_rows, ranks_by_counting, ranks_by_sorting


def naive_scores(query, gallery, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None):
    similarity = query.double() @ gallery.double().T
    precisions, inverse_penalties, curves = [], [], []
    for q in range(len(query)):
        kept = [
            g
            for g in range(len(gallery))
            if query_cameras is None
            or gallery_cameras is None
            or gallery_ids[g] != query_ids[q]
            or gallery_cameras[g] != query_cameras[q]
        ]
        order = sorted(kept, key=lambda g: (-float(similarity[q, g]), g))
        places = [k + 1 for k, g in enumerate(order) if gallery_ids[g] == query_ids[q]]
        if not places:
            continue
        precisions.append(np.mean([(n + 1) / place for n, place in enumerate(places)]))
        inverse_penalties.append(len(places) / places[-1])
        curves.append([float(places[0] <= k + 1) for k in range(50)])
    if not precisions:
        return math.nan, math.nan, np.full(50, math.nan), 0
    return (
        np.mean(precisions),
        np.mean(inverse_penalties),
        np.mean(curves, axis=0),
        len(precisions),
    )


def assert_scores(scores, expected):
    mean_precision, mean_penalty, cmc, num_valid = expected
    assert scores.num_valid_queries == num_valid
    np.testing.assert_allclose(scores.mAP, mean_precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.mINP, mean_penalty, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.cmc, cmc, rtol=0, atol=1e-12)


def integer_features(rng, count, spread):
    """Small integers: similarities are exact, and a small spread causes many ties."""
    return torch.from_numpy(rng.integers(-spread, spread + 1, (count, 4)).astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_queries=st.integers(1, 12),
    # With few persons, rows are sorted; with many, matches are counted.
    size=st.sampled_from([(1, 1), (2, 1), (70, 8), (300, 2), (300, 200), (700, 300)]),
    spread=st.sampled_from([1, 2, 40]),
    cameras=st.booleans(),
    chunk=st.sampled_from([1, 3, 256]),
)
def test_agrees_with_a_naive_loop_including_ties(seed, num_queries, size, spread, cameras, chunk):
    rng = np.random.default_rng(seed)
    num_gallery, num_persons = size
    arguments = [
        integer_features(rng, num_queries, spread),
        integer_features(rng, num_gallery, spread),
        rng.integers(0, num_persons, num_queries),
        rng.integers(0, num_persons, num_gallery),
    ]
    if cameras:
        arguments += [rng.integers(0, 3, num_queries), rng.integers(0, 3, num_gallery)]
    scores = evaluate_ranking(*arguments, chunk=chunk)
    assert_scores(scores, naive_scores(*arguments))


def distinct_similarities(rng, num_queries, num_gallery):
    """Features whose similarities are distinct within every row."""
    query = torch.eye(num_queries, dtype=torch.float64)
    values = rng.permutation(num_queries * num_gallery).reshape(num_gallery, num_queries)
    return query, torch.from_numpy(values.astype(np.float64))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), num_persons=st.sampled_from([1, 6, 300]))
def test_gallery_order_matters_only_for_ties(seed, num_persons):
    rng = np.random.default_rng(seed)
    query, gallery = distinct_similarities(rng, 5, 600)
    ids, query_ids = rng.integers(0, num_persons, 600), rng.integers(0, num_persons, 5)
    order = rng.permutation(600)
    scores = evaluate_ranking(query, gallery, query_ids, ids)
    permuted = evaluate_ranking(query, gallery[order], query_ids, ids[order])
    np.testing.assert_equal(permuted.percent(), scores.percent())
    np.testing.assert_array_equal(scores.cmc, permuted.cmc)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), num_persons=st.sampled_from([1, 6, 300]))
def test_appended_copies_double_the_entries_before_a_match(seed, num_persons):
    rng = np.random.default_rng(seed)
    query, gallery = distinct_similarities(rng, 5, 600)
    ids, query_ids = rng.integers(0, num_persons, 600), rng.integers(0, num_persons, 5)
    scores = evaluate_ranking(query, gallery, query_ids, ids)
    distractors = np.full(600, -1)
    doubled = evaluate_ranking(
        query, gallery.repeat(2, 1), query_ids, np.concatenate([ids, distractors])
    )
    assert doubled.num_valid_queries == scores.num_valid_queries
    np.testing.assert_array_equal(doubled.cmc, scores.cmc[np.arange(50) // 2])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_gallery=st.sampled_from([1, 2, 9, 64, 1000]),
    share=st.sampled_from([0.01, 0.5, 1.0]),
    kind=st.sampled_from(["ties", "zeros", "normal", "matches first"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_counting_and_sorting_agree_with_a_naive_loop(seed, num_gallery, share, kind, dtype):
    rng = np.random.default_rng(seed)
    shape = (4, num_gallery)
    matches = rng.random(shape) < share
    matches[2] = False
    values = rng.standard_normal(shape)
    if kind == "ties":
        values = values.round()
    elif kind == "zeros":
        values = np.where(values > 0, 0.0, -0.0)
    elif kind == "matches first":
        values = (values + 9 * matches).round(1)
    values[~matches & (rng.random(shape) < 0.1)] = -np.inf  # removed by the camera rule
    similarity = torch.from_numpy(values).to(dtype)
    rows, columns = matches.nonzero()
    rankings = [
        sorted(range(num_gallery), key=lambda g, row=row: (-row[g], g))
        for row in similarity.tolist()
    ]
    expected = [rankings[q].index(g) for q, g in zip(rows, columns, strict=True)]
    counted = ranks_by_counting(similarity, rows, columns)
    by_sorting = ranks_by_sorting(similarity, rows, columns)
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(by_sorting, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rank_rows_with_given_similarities(dtype):
    rng = np.random.default_rng(4)
    similarity = torch.from_numpy(rng.standard_normal((11, 500))).to(dtype)
    ids = rng.integers(0, 60, 11), rng.integers(0, 60, 500)
    cameras = rng.integers(0, 3, 11), rng.integers(0, 3, 500)
    buffer = torch.empty(4, 500, dtype=dtype)
    ranges = []

    def rows(start, stop):
        ranges.append((start, stop))
        return buffer[: stop - start].copy_(similarity[start:stop])

    scores = rank_rows(rows, *ids, *cameras, chunk=4)
    assert ranges == [(0, 4), (4, 8), (8, 11)]
    # Inner products with unit vectors equal the given similarities.
    as_products = (torch.eye(11, dtype=torch.float64), similarity.double().T.contiguous())
    expected = naive_scores(as_products[0], as_products[1], *ids, *cameras)
    assert_scores(scores, expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(2, 4), r"of queries 0 to 1: expected \[2, 3\] floats, got \[2, 4\]"),
        (torch.zeros(2, 3).long(), "got .* of torch.int64"),
        (torch.tensor([[0.0, 1.0, math.nan]] * 2), "queries 0 to 1: expected finite values"),
        (torch.tensor([[0.0, 1.0, -math.inf]] * 2), "expected finite values"),
    ],
)
def test_invalid_similarities_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        rank_rows(lambda start, stop: rows, [1, 2], [1, 2, 3])


def test_overflowing_products_are_refused():
    features = torch.full((2, 3), 1e30)
    with pytest.raises(ValueError, match="products are too large"):
        evaluate_ranking(features, features, [1, 2], [1, 2])


@pytest.mark.parametrize("ids", [([], [1]), ([1], [])])
def test_empty_queries_or_gallery_are_refused(ids):
    with pytest.raises(ValueError, match="at least one query and one gallery image"):
        rank_rows(lambda start, stop: torch.zeros(1, 1), *ids)


@pytest.mark.parametrize("num_persons", [2, 300])
def test_scores_do_not_depend_on_the_chunk(num_persons):
    rng = np.random.default_rng(9)
    arguments = [integer_features(rng, 30, 3), integer_features(rng, 500, 3)]
    arguments += [rng.integers(0, num_persons, n) for n in (30, 500)]
    arguments += [rng.integers(0, 2, n) for n in (30, 500)]
    expected = evaluate_ranking(*arguments)
    for chunk in (1, 7, 30, 31):
        scores = evaluate_ranking(*arguments, chunk=chunk, device="cpu")
        np.testing.assert_equal(scores.percent(), expected.percent())
        np.testing.assert_array_equal(scores.cmc, expected.cmc)


MEMORY_BEYOND_FEATURES = """
import resource
import torch
from tasks.retrieval.ranking import evaluate_ranking

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def sets(num_queries, num_gallery):
    features = [torch.randn(n, 32) for n in (num_queries, num_gallery)]
    ids = [torch.randint(0, 700, (n,)) for n in (num_queries, num_gallery)]
    cameras = [torch.randint(0, 6, (n,)) for n in (num_queries, num_gallery)]
    return *features, *ids, *cameras

evaluate_ranking(*sets(64, 2000), chunk=64)  # allocates the buffers of the libraries
arguments = sets(1500, 20000)
before = peak()
evaluate_ranking(*arguments, chunk=64)
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_is_not_proportional_to_all_pairs():
    command = [sys.executable, "-c", MEMORY_BEYOND_FEATURES]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    # One byte per pair would be 30 MB; a block of 64 rows has 5 MB.
    assert int(child.stdout) < 20e6


def test_known_ranking():
    # Matches at ranks 1, 3 and 6.
    gallery = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]])
    scores = evaluate_ranking(torch.ones(1, 1), gallery, [7], [7, 1, 7, 1, 1, 7])
    assert scores.mAP == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert scores.mINP == 0.5
    assert (scores.R1, scores.R5, scores.R10) == (1.0, 1.0, 1.0)
    assert scores.cmc.shape == (50,)
    assert scores.cmc.dtype == np.float64


def test_ties_are_ranked_by_gallery_index():
    gallery = torch.ones(4, 2)
    late = evaluate_ranking(torch.ones(1, 2), gallery, [1], [0, 0, 0, 1])
    early = evaluate_ranking(torch.ones(1, 2), gallery, [1], [1, 0, 0, 0])
    assert (late.mAP, late.R1) == (0.25, 0.0)
    assert (early.mAP, early.R1) == (1.0, 1.0)
    np.testing.assert_array_equal(late.cmc[:5], [0, 0, 0, 1, 1])


def test_all_gallery_images_are_matches():
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    scores = evaluate_ranking(features[:4], features, np.zeros(4, int), np.zeros(60, int))
    assert scores.mAP == scores.mINP == scores.R1 == 1.0


def test_camera_rule_removes_only_the_same_camera():
    gallery = torch.tensor([[1.0], [0.9], [0.8]])
    arguments = (torch.ones(1, 1), gallery, [5], [5, 6, 5])
    assert evaluate_ranking(*arguments, [0], [0, 0, 1]).mAP == 0.5
    assert evaluate_ranking(*arguments).mAP == pytest.approx((1 + 2 / 3) / 2)


def test_queries_without_a_match_are_excluded():
    gallery = torch.tensor([[1.0], [0.5]])
    scores = evaluate_ranking(torch.ones(3, 1), gallery, [5, 8, 6], [5, 6], [0, 0, 0], [1, 1])
    assert scores.num_valid_queries == 2
    assert scores.mAP == 0.75


def test_scores_are_nan_without_a_valid_query():
    scores = evaluate_ranking(
        torch.ones(2, 1), torch.ones(3, 1), [5, 5], [5, 5, 6], [0, 0], [0] * 3
    )
    assert scores.num_valid_queries == 0
    assert all(math.isnan(value) for value in scores.percent().values())
    assert np.isnan(scores.cmc).all()


def test_percent_contains_the_metrics_of_the_result_matrix():
    from tasks.retrieval.metrics import METRICS

    scores = evaluate_ranking(torch.ones(1, 1), torch.ones(2, 1), [1], [0, 1])
    assert tuple(scores.percent()) == METRICS
    assert scores.percent()["mAP"] == 50.0


def test_half_precision_and_autocast_do_not_change_scores():
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(9, 8, generator=generator).bfloat16()
    gallery = torch.randn(40, 8, generator=generator).bfloat16()
    ids = (np.arange(9) % 4, np.arange(40) % 5)
    expected = evaluate_ranking(query.float(), gallery.float(), *ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = evaluate_ranking(query, gallery, *ids)
        of_float = evaluate_ranking(query.float(), gallery.float(), *ids)
    assert scores.mAP == of_float.mAP == expected.mAP


def test_features_with_requires_grad_are_accepted_and_not_modified():
    query = torch.nn.functional.normalize(torch.eye(3) + 0.1)
    gallery = query.clone().requires_grad_()
    scores = evaluate_ranking(query, gallery, torch.arange(3), torch.arange(3))
    assert scores.mAP == 1.0
    assert torch.equal(gallery.detach(), query)


@pytest.mark.gpu
def test_cuda_agrees_with_cpu():
    rng = np.random.default_rng(3)
    arguments = [integer_features(rng, 50, 2), integer_features(rng, 400, 2)]
    arguments += [torch.from_numpy(rng.integers(0, 9, n)) for n in (50, 400)]
    on_cpu = evaluate_ranking(*arguments)
    on_gpu = evaluate_ranking(*[value.cuda() for value in arguments])
    assert (on_cpu.mAP, on_cpu.mINP) == (on_gpu.mAP, on_gpu.mINP)
    np.testing.assert_array_equal(on_cpu.cmc, on_gpu.cmc)
    moved = evaluate_ranking(*arguments, device="cuda")
    assert (moved.mAP, moved.mINP) == (on_gpu.mAP, on_gpu.mINP)


@pytest.mark.gpu
def test_cuda_sorting_agrees_with_cpu_counting():
    rng = np.random.default_rng(6)
    values = rng.standard_normal((3, 9000)).round(1).astype(np.float32)
    values[0] = np.where(values[0] > 0, 0.0, -0.0)
    rows, columns = (rng.random(values.shape) < 0.01).nonzero()
    similarity = torch.from_numpy(values)
    counted = ranks_by_counting(similarity, rows, columns)
    np.testing.assert_array_equal(ranks_by_sorting(similarity.cuda(), rows, columns), counted)


QUERY, GALLERY = torch.ones(2, 4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_features": torch.ones(3, 5)}, r"features of the same width.*\[2, 4\].*\[3, 5\]"),
        ({"query_features": torch.ones(4)}, r"query_features: expected a \[N, D\] float tensor"),
        ({"query_features": torch.ones(2, 4).long()}, "float tensor, got .* of torch.int64"),
        ({"gallery_features": torch.ones(0, 4)}, "gallery_features: expected at least one"),
        ({"query_features": QUERY.clone().index_fill(0, torch.tensor([1]), math.nan)}, "row 1"),
        ({"gallery_features": GALLERY / 0}, "gallery_features: expected finite .* in 3 of 3 rows"),
        ({"query_ids": np.zeros(3, int)}, r"query_ids: expected 2 integers.*got \[3\]"),
        ({"gallery_ids": np.zeros(3)}, "gallery_ids: expected 3 integers.*float64"),
        ({"query_cameras": np.zeros(2, int)}, "got only query_cameras"),
        ({"gallery_cameras": np.zeros(3, int)}, "got only gallery_cameras"),
        ({"chunk": 0}, "chunk: expected at least 1"),
    ],
)
def test_invalid_inputs_are_refused(changes, message):
    arguments = {
        "query_features": QUERY,
        "gallery_features": GALLERY,
        "query_ids": np.zeros(2, int),
        "gallery_ids": np.zeros(3, int),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_ranking(**(arguments | changes))
