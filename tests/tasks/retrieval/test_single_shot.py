"""Single-shot scores against an enumeration of all possible galleries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval.ranking import evaluate_ranking
from tasks.retrieval.single_shot import MATCH_BLOCK, evaluate_single_shot


def naive_expectation(
    query, gallery, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None
):
    """Ranks every gallery with one image per person, after the camera rule.

    Returns:
        mAP, cmc and number of valid queries.
    """
    similarity = query.double() @ gallery.double().T
    curves, reciprocals = [], []
    for q in range(len(query)):
        images = {}
        for g, person in enumerate(gallery_ids):
            is_removed = (
                query_cameras is not None
                and gallery_cameras is not None
                and person == query_ids[q]
                and gallery_cameras[g] == query_cameras[q]
            )
            if not is_removed:
                images.setdefault(person, []).append(g)
        if query_ids[q] not in images:
            continue
        hits, ranks = [], []
        for drawn in itertools.product(*images.values()):
            order = sorted(drawn, key=lambda g: (-float(similarity[q, g]), g))
            rank = next(k for k, g in enumerate(order) if gallery_ids[g] == query_ids[q])
            hits.append([float(rank <= k) for k in range(50)])
            ranks.append(1 / (rank + 1))
        curves.append(np.mean(hits, axis=0))
        reciprocals.append(np.mean(ranks))
    if not curves:
        return math.nan, np.full(50, math.nan), 0
    return np.mean(reciprocals), np.mean(curves, axis=0), len(curves)


def random_sets(rng, num_queries, num_gallery, num_persons, spread, cameras):
    """Features of small integers: similarities are exact and often tied."""
    arguments = [
        torch.from_numpy(rng.integers(-spread, spread + 1, (n, 3)).astype(np.float32))
        for n in (num_queries, num_gallery)
    ]
    arguments += [rng.integers(0, num_persons, n) for n in (num_queries, num_gallery)]
    if cameras:
        arguments += [rng.integers(0, 2, n) for n in (num_queries, num_gallery)]
    return arguments


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    num_gallery=st.integers(1, 9),
    num_persons=st.integers(1, 5),
    spread=st.sampled_from([1, 30]),
    cameras=st.booleans(),
    chunk=st.sampled_from([1, 2, 256]),
)
def test_exact_scores_equal_the_enumeration_of_all_galleries(
    seed, num_gallery, num_persons, spread, cameras, chunk
):
    rng = np.random.default_rng(seed)
    arguments = random_sets(rng, 4, num_gallery, num_persons, spread, cameras)
    scores = evaluate_single_shot(*arguments, num_draws=None, chunk=chunk)
    mean_precision, cmc, num_valid = naive_expectation(*arguments)
    assert scores.num_valid_queries == num_valid
    assert scores.cmc.shape == (50,)
    np.testing.assert_allclose(scores.cmc, cmc, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.mAP, mean_precision, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("spread", [1, 1000])
def test_sampled_scores_converge_to_the_exact_scores(cameras, spread):
    rng = np.random.default_rng(5)
    arguments = random_sets(rng, 10, 40, 6, spread, cameras)
    expected = evaluate_single_shot(*arguments, num_draws=None)
    num_draws = 4000
    drawn = evaluate_single_shot(*arguments, num_draws=num_draws)
    assert drawn.num_valid_queries == expected.num_valid_queries > 5
    # At most five standard deviations of the mean of independent draws in [0, 1].
    bound = 5 * 0.5 / math.sqrt(num_draws * drawn.num_valid_queries)
    np.testing.assert_allclose(drawn.cmc, expected.cmc, rtol=0, atol=bound)
    np.testing.assert_allclose(drawn.mAP, expected.mAP, rtol=0, atol=bound)
    assert expected.cmc[0] < 0.9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), num_draws=st.sampled_from([1, 7, None]))
def test_one_image_per_person_equals_the_standard_protocol(seed, num_draws):
    rng = np.random.default_rng(seed)
    query, gallery, query_ids, _ = random_sets(rng, 5, 70, 70, 3, cameras=False)
    gallery_ids = rng.permutation(70)
    scores = evaluate_single_shot(query, gallery, query_ids, gallery_ids, num_draws=num_draws)
    whole = evaluate_ranking(query, gallery, query_ids, gallery_ids)
    np.testing.assert_allclose(scores.cmc, whole.cmc, rtol=0, atol=1e-12)
    for name, value in whole.percent().items():
        assert scores.percent()[name] == pytest.approx(value, abs=1e-10)


def test_known_galleries():
    # One image of the other person is ranked before the match, one after it.
    gallery = torch.tensor([[0.9], [0.5], [0.1]])
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [4], [3, 4, 3], num_draws=None)
    np.testing.assert_allclose(scores.cmc[:3], [0.5, 1.0, 1.0])
    # The camera rule removes the query person's nearest image, and no image of another person.
    gallery = torch.tensor([[1.0], [0.9], [0.5]])
    arguments = (torch.ones(1, 1), gallery, [4], [4, 3, 4], [0], [0, 0, 1])
    for num_draws in (None, 10):
        assert evaluate_single_shot(*arguments, num_draws=num_draws).cmc[0] == 0.0


def test_draws_are_repeatable_and_independent_of_the_chunk():
    arguments = random_sets(np.random.default_rng(2), 9, 60, 8, 3, cameras=True)
    first = evaluate_single_shot(*arguments, num_draws=5)
    for chunk in (1, 4, 9):
        again = evaluate_single_shot(*arguments, num_draws=5, chunk=chunk)
        np.testing.assert_allclose(again.cmc, first.cmc, rtol=0, atol=1e-12)
    other = evaluate_single_shot(*arguments, num_draws=5, seed=1)
    assert not np.array_equal(other.cmc, first.cmc)


def test_more_matches_than_one_block():
    rng = np.random.default_rng(8)
    num_images = 2 * MATCH_BLOCK + 3
    gallery = torch.from_numpy(rng.permutation(num_images + 3).astype(np.float32))[:, None]
    ids = np.array([1] * num_images + [2, 2, 3])
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [1], ids, num_draws=None)
    values = gallery[:, 0].tolist()
    ranks = [
        (max(values[one], values[two]) > match) + (min(values[one], values[two]) > match)
        for match in values[:num_images]
        for one, two in itertools.product((-3, -2), (-1,))
    ]
    np.testing.assert_allclose(scores.cmc[:3], [np.mean(np.array(ranks) <= k) for k in range(3)])


def test_more_persons_than_ranks_of_the_curve():
    # 60 persons with two images, one before the match and one after it: Binomial(60, 1/2).
    gallery = torch.tensor([2.0, 0.0] * 60 + [1.0])[:, None]
    ids = [*np.repeat(np.arange(60), 2), 99]
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [99], ids, num_draws=None)
    probabilities = [math.comb(60, k) / 2**60 for k in range(50)]
    np.testing.assert_allclose(scores.cmc, np.cumsum(probabilities), rtol=0, atol=1e-12)
    expected = sum(math.comb(60, k) / 2**60 / (k + 1) for k in range(61))
    assert scores.mAP == pytest.approx(expected, abs=1e-12)


def test_scores_are_nan_without_a_valid_query():
    scores = evaluate_single_shot(torch.ones(2, 1), torch.ones(3, 1), [5, 6], [7, 8, 9])
    assert scores.num_valid_queries == 0
    assert np.isnan(scores.cmc).all()
    assert all(math.isnan(value) for value in scores.percent().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_draws": 0}, "num_draws: expected at least 1, or None, got 0"),
        ({"chunk": 0}, "chunk: expected at least 1"),
        ({"query_ids": [1, 2]}, "query_ids: expected 1 integers"),
        ({"query_cameras": [1]}, "got only query_cameras"),
    ],
)
def test_invalid_inputs_are_refused(changes, message):
    arguments = {
        "query_features": torch.ones(1, 2),
        "gallery_features": torch.ones(2, 2),
        "query_ids": [1],
        "gallery_ids": [1, 2],
    }
    with pytest.raises(ValueError, match=message):
        evaluate_single_shot(**(arguments | changes))
