"""Ranking scores against a loop that follows the definitions word by word."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ranking import evaluate_ranking


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
    """Small integers: similarities are exact, and a small spread makes many of them equal."""
    return torch.from_numpy(rng.integers(-spread, spread + 1, (count, 4)).astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_queries=st.integers(1, 12),
    num_gallery=st.integers(1, 70),
    num_persons=st.integers(1, 8),
    spread=st.sampled_from([1, 2, 40]),
    cameras=st.booleans(),
    chunk=st.sampled_from([1, 3, 256]),
)
def test_agrees_with_a_naive_loop_ties_included(
    seed, num_queries, num_gallery, num_persons, spread, cameras, chunk
):
    rng = np.random.default_rng(seed)
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


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_the_gallery_order_matters_only_for_ties(seed):
    rng = np.random.default_rng(seed)
    query = torch.eye(5, dtype=torch.float64)
    gallery = torch.from_numpy(rng.permutation(5 * 60).reshape(60, 5).astype(np.float64))
    ids, query_ids = rng.integers(0, 6, 60), np.arange(5)
    order = rng.permutation(60)
    scores = evaluate_ranking(query, gallery, query_ids, ids)
    permuted = evaluate_ranking(query, gallery[order], query_ids, ids[order])
    assert scores.mAP == permuted.mAP
    assert scores.mINP == permuted.mINP
    np.testing.assert_array_equal(scores.cmc, permuted.cmc)


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


def test_every_gallery_image_is_a_match():
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    scores = evaluate_ranking(features[:4], features, np.zeros(4, int), np.zeros(60, int))
    assert scores.mAP == scores.mINP == scores.R1 == 1.0


def test_same_person_same_camera_is_removed_and_other_cameras_stay():
    gallery = torch.tensor([[1.0], [0.9], [0.8]])
    arguments = (torch.ones(1, 1), gallery, [5], [5, 6, 5])
    assert evaluate_ranking(*arguments, [0], [0, 0, 1]).mAP == 0.5
    assert evaluate_ranking(*arguments).mAP == pytest.approx((1 + 2 / 3) / 2)


def test_a_query_without_a_match_is_not_counted():
    gallery = torch.tensor([[1.0], [0.5]])
    scores = evaluate_ranking(torch.ones(3, 1), gallery, [5, 8, 6], [5, 6], [0, 0, 0], [1, 1])
    assert scores.num_valid_queries == 2
    assert scores.mAP == 0.75


def test_without_any_valid_query_scores_are_nan():
    scores = evaluate_ranking(
        torch.ones(2, 1), torch.ones(3, 1), [5, 5], [5, 5, 6], [0, 0], [0] * 3
    )
    assert scores.num_valid_queries == 0
    assert all(math.isnan(value) for value in scores.percent().values())
    assert np.isnan(scores.cmc).all()


def test_percent_has_the_metrics_of_the_result_matrix():
    from tasks.metrics import METRICS

    scores = evaluate_ranking(torch.ones(1, 1), torch.ones(2, 1), [1], [0, 1])
    assert tuple(scores.percent()) == METRICS
    assert scores.percent()["mAP"] == 50.0


def test_half_precision_and_autocast_do_not_change_the_arithmetic():
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(9, 8, generator=generator).bfloat16()
    gallery = torch.randn(40, 8, generator=generator).bfloat16()
    ids = (np.arange(9) % 4, np.arange(40) % 5)
    expected = evaluate_ranking(query.float(), gallery.float(), *ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = evaluate_ranking(query, gallery, *ids)
        of_float = evaluate_ranking(query.float(), gallery.float(), *ids)
    assert scores.mAP == of_float.mAP == expected.mAP


def test_a_float_gallery_that_requires_grad_is_fine_and_nothing_is_changed():
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


QUERY, GALLERY = torch.ones(2, 4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_features": torch.ones(3, 5)}, r"features of one width.*\[2, 4\].*\[3, 5\]"),
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
def test_bad_input_is_refused_in_words(changes, message):
    arguments = {
        "query_features": QUERY,
        "gallery_features": GALLERY,
        "query_ids": np.zeros(2, int),
        "gallery_ids": np.zeros(3, int),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_ranking(**(arguments | changes))
