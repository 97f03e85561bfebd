"""Chance: the expectation against all orders of small galleries, and against random features."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.benchmarks import BenchmarkConfig, load_benchmark
from tasks.retrieval.random_baseline import chance_average, chance_scores
from tasks.retrieval.ranking import evaluate_ranking
from tasks.schema import Domain, Record, Split

IDS = st.tuples(st.integers(0, 2), st.integers(0, 1))


def records(pairs):
    return tuple(Record(str(number), *pair) for number, pair in enumerate(pairs))


def naive(split):
    """Every order of what is left of each query's gallery."""
    precisions, firsts = [], []
    for query in split.query:
        left = [
            entry.person_id == query.person_id
            for entry in split.gallery
            if split.query_by == "text"
            or (entry.person_id, entry.camera_id) != (query.person_id, query.camera_id)
        ]
        if not any(left):
            continue
        of_orders = []
        for order in permutations(left):
            places = [place for place, is_match in enumerate(order, 1) if is_match]
            of_orders.append(np.mean([number / place for number, place in enumerate(places, 1)]))
        precisions.append(np.mean(of_orders))
        firsts.append(np.mean(left))
    return precisions, firsts


@settings(deadline=None, max_examples=60)
@given(
    query=st.lists(IDS, min_size=1, max_size=4),
    gallery=st.lists(IDS, min_size=1, max_size=6),
    query_by=st.sampled_from(["image", "text"]),
)
def test_it_is_the_mean_over_all_orders(query, gallery, query_by) -> None:
    split = Split(records(query), records(gallery), query_by)
    precisions, firsts = naive(split)
    found = chance_scores(split)
    if not precisions:
        assert math.isnan(found.mAP)
        assert math.isnan(found.R1)
        return
    wanted = float(np.mean(precisions)), float(np.mean(firsts))
    assert (found.mAP, found.R1) == pytest.approx(wanted)


def test_a_gallery_of_matches_alone_is_always_right() -> None:
    split = Split(records([(1, 0)]), records([(1, 1), (1, 1), (1, 0)]))
    found = chance_scores(split)
    assert (found.mAP, found.R1) == pytest.approx((1, 1))


def random_scores(split, num_draws):
    """[num_draws, 2] mAP and R1 of features that know nothing."""
    generator = torch.Generator().manual_seed(0)
    query, gallery = (
        (torch.tensor([r.person_id for r in part]), torch.tensor([r.camera_id for r in part]))
        for part in (split.query, split.gallery)
    )
    found = []
    for _ in range(num_draws):
        rows = torch.randn(len(split.query) + len(split.gallery), 96, generator=generator)
        features = torch.nn.functional.normalize(rows, dim=1)
        parts = features[: len(split.query)], features[len(split.query) :]
        scores = evaluate_ranking(*parts, query[0], gallery[0], query[1], gallery[1])
        found.append((scores.mAP, scores.R1))
    return np.array(found)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, ...]:
    """The people of the default benchmark, drawn coarsely: protocol and counts are its own."""
    root: Path = tmp_path_factory.mktemp("people")
    fields = {"supersampling": 1, "height": 16, "width": 8, "num_seen_domains": 1,
              "num_unseen_domains": 1}  # fmt: skip
    config = BenchmarkConfig.model_validate({"root": str(root), "synthetic": fields})
    return load_benchmark(config, image_height=16, image_width=8).domains


def test_random_features_score_at_chance_on_the_synthetic_people(drawn) -> None:
    for domain in drawn:
        expected = chance_scores(domain.test)
        found = random_scores(domain.test, 200)
        errors = found.std(0, ddof=1) / math.sqrt(len(found))
        distance = np.abs(found.mean(0) - (expected.mAP, expected.R1))
        assert (distance < 4 * errors).all(), domain.name
        assert (errors < 0.001).all()
    average = chance_average(drawn)
    assert average["mAP"] == pytest.approx(5.8, abs=0.05), "docs/ablations.md says 5.8"
    assert average["R1"] == pytest.approx(2.4, abs=0.05)


def test_domains_without_queries_have_no_average() -> None:
    assert chance_average([]) == {"mAP": None, "R1": None}


def test_single_gallery_shot_has_one_match_among_the_persons() -> None:
    gallery = records([(1, 0), (1, 1), (1, 1), (2, 0), (2, 1), (3, 0)])
    split = Split(records([(1, 0), (3, 0)]), gallery)
    scores = chance_scores(split, "single_gallery_shot")
    assert (scores.mAP, scores.R1) == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3, 1 / 3))
