"""The single-shot metric against the enumeration of every gallery that can be drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval.ranking import evaluate_ranking
from tasks.retrieval.single_shot import MATCHES_AT_ONCE, evaluate_single_shot


def naive_expectation(
    query, gallery, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None
):
    """Ranks every gallery with one image of each person, the query's camera taken out first."""
    similarity = query.double() @ gallery.double().T
    curves = []
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
        hits = []
        for drawn in itertools.product(*images.values()):
            order = sorted(drawn, key=lambda g: (-float(similarity[q, g]), g))
            rank = next(k for k, g in enumerate(order) if gallery_ids[g] == query_ids[q])
            hits.append([float(rank <= k) for k in range(50)])
        curves.append(np.mean(hits, axis=0))
    return np.mean(curves, axis=0) if curves else np.full(50, math.nan), len(curves)


def random_sets(rng, num_queries, num_gallery, num_persons, spread, cameras):
    """Features of small whole numbers, whose similarities are exact and often equal."""
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
def test_the_expectation_is_that_of_every_gallery(
    seed, num_gallery, num_persons, spread, cameras, chunk
):
    rng = np.random.default_rng(seed)
    arguments = random_sets(rng, 4, num_gallery, num_persons, spread, cameras)
    scores = evaluate_single_shot(*arguments, num_draws=None, chunk=chunk)
    cmc, num_valid = naive_expectation(*arguments)
    assert scores.num_valid_queries == num_valid
    assert scores.cmc.shape == (50,)
    np.testing.assert_allclose(scores.cmc, cmc, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("spread", [1, 1000])
def test_draws_come_close_to_the_expectation(cameras, spread):
    rng = np.random.default_rng(5)
    arguments = random_sets(rng, 10, 40, 6, spread, cameras)
    expected = evaluate_single_shot(*arguments, num_draws=None)
    num_draws = 4000
    drawn = evaluate_single_shot(*arguments, num_draws=num_draws)
    assert drawn.num_valid_queries == expected.num_valid_queries > 5
    # Five standard deviations of a share of that many independent draws, at the most.
    bound = 5 * 0.5 / math.sqrt(num_draws * drawn.num_valid_queries)
    np.testing.assert_allclose(drawn.cmc, expected.cmc, rtol=0, atol=bound)
    assert expected.cmc[0] < 0.9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), num_draws=st.sampled_from([1, 7, None]))
def test_with_one_image_of_each_person_there_is_nothing_to_draw(seed, num_draws):
    rng = np.random.default_rng(seed)
    query, gallery, query_ids, _ = random_sets(rng, 5, 70, 70, 3, cameras=False)
    gallery_ids = rng.permutation(70)
    scores = evaluate_single_shot(query, gallery, query_ids, gallery_ids, num_draws=num_draws)
    whole = evaluate_ranking(query, gallery, query_ids, gallery_ids)
    np.testing.assert_allclose(scores.cmc, whole.cmc, rtol=0, atol=1e-12)


def test_known_galleries():
    # The other person's images stand before and behind; a draw takes either.
    gallery = torch.tensor([[0.9], [0.5], [0.1]])
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [4], [3, 4, 3], num_draws=None)
    np.testing.assert_allclose(scores.cmc[:3], [0.5, 1.0, 1.0])
    # Their camera takes the query's own nearest image out, and no other person's.
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


def test_a_person_with_more_images_than_are_looked_at_at_once():
    rng = np.random.default_rng(8)
    num_images = 2 * MATCHES_AT_ONCE + 3
    gallery = torch.from_numpy(rng.permutation(num_images + 3).astype(np.float32))[:, None]
    ids = np.array([1] * num_images + [2, 2, 3])
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [1], ids, num_draws=None)
    values = gallery[:, 0].tolist()
    ranks = [
        (max(values[one], values[two]) > own) + (min(values[one], values[two]) > own)
        for own in values[:num_images]
        for one, two in itertools.product((-3, -2), (-1,))
    ]
    np.testing.assert_allclose(scores.cmc[:3], [np.mean(np.array(ranks) <= k) for k in range(3)])


def test_more_persons_than_the_curve_is_long():
    # 60 persons with two images, one before the match and one behind: Binomial(60, 1/2).
    gallery = torch.tensor([2.0, 0.0] * 60 + [1.0])[:, None]
    ids = [*np.repeat(np.arange(60), 2), 99]
    scores = evaluate_single_shot(torch.ones(1, 1), gallery, [99], ids, num_draws=None)
    chances = [math.comb(60, k) / 2**60 for k in range(50)]
    np.testing.assert_allclose(scores.cmc, np.cumsum(chances), rtol=0, atol=1e-12)


def test_without_any_valid_query_scores_are_nan():
    scores = evaluate_single_shot(torch.ones(2, 1), torch.ones(3, 1), [5, 6], [7, 8, 9])
    assert scores.num_valid_queries == 0
    assert np.isnan(scores.cmc).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_draws": 0}, "num_draws: expected at least 1, or None, got 0"),
        ({"chunk": 0}, "chunk: expected at least 1"),
        ({"query_ids": [1, 2]}, "query_ids: expected 1 integers"),
        ({"query_cameras": [1]}, "got only query_cameras"),
    ],
)
def test_bad_input_is_refused_in_words(changes, message):
    arguments = {
        "query_features": torch.ones(1, 2),
        "gallery_features": torch.ones(2, 2),
        "query_ids": [1],
        "gallery_ids": [1, 2],
    }
    with pytest.raises(ValueError, match=message):
        evaluate_single_shot(**(arguments | changes))
