"""Chance scores against all permutations of small galleries and against random features."""

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
    """Averages over all permutations of each query's remaining gallery."""
    precisions, firsts = [], []
    for query in split.query:
        matches = [
            entry.person_id == query.person_id
            for entry in split.gallery
            if split.query_by == "text"
            or (entry.person_id, entry.camera_id) != (query.person_id, query.camera_id)
        ]
        if not any(matches):
            continue
        per_order = []
        for order in permutations(matches):
            ranks = [rank for rank, is_match in enumerate(order, 1) if is_match]
            per_order.append(np.mean([count / rank for count, rank in enumerate(ranks, 1)]))
        precisions.append(np.mean(per_order))
        firsts.append(np.mean(matches))
    return precisions, firsts


@settings(deadline=None, max_examples=60)
@given(
    query=st.lists(IDS, min_size=1, max_size=4),
    gallery=st.lists(IDS, min_size=1, max_size=6),
    query_by=st.sampled_from(["image", "text"]),
)
def test_chance_is_the_mean_over_all_permutations(query, gallery, query_by) -> None:
    split = Split(records(query), records(gallery), query_by)
    precisions, firsts = naive(split)
    scores = chance_scores(split)
    if not precisions:
        assert math.isnan(scores.mAP)
        assert math.isnan(scores.R1)
        return
    expected = float(np.mean(precisions)), float(np.mean(firsts))
    assert (scores.mAP, scores.R1) == pytest.approx(expected)


def test_a_gallery_with_only_matches_scores_1() -> None:
    split = Split(records([(1, 0)]), records([(1, 1), (1, 1), (1, 0)]))
    scores = chance_scores(split)
    assert (scores.mAP, scores.R1) == pytest.approx((1, 1))


def random_scores(split, num_draws):
    """[num_draws, 2] mAP and R1 of random features."""
    generator = torch.Generator().manual_seed(0)
    query, gallery = (
        (torch.tensor([r.person_id for r in part]), torch.tensor([r.camera_id for r in part]))
        for part in (split.query, split.gallery)
    )
    samples = []
    for _ in range(num_draws):
        rows = torch.randn(len(split.query) + len(split.gallery), 96, generator=generator)
        features = torch.nn.functional.normalize(rows, dim=1)
        parts = features[: len(split.query)], features[len(split.query) :]
        scores = evaluate_ranking(*parts, query[0], gallery[0], query[1], gallery[1])
        samples.append((scores.mAP, scores.R1))
    return np.array(samples)


@pytest.fixture(scope="module")
def synthetic_domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, ...]:
    """Domains of the default benchmark, rendered at low resolution."""
    root: Path = tmp_path_factory.mktemp("people")
    fields = {"supersampling": 1, "height": 16, "width": 8, "num_seen_domains": 1,
              "num_unseen_domains": 1}  # fmt: skip
    config = BenchmarkConfig.model_validate({"root": str(root), "synthetic": fields})
    return load_benchmark(config, image_height=16, image_width=8).domains


def test_random_features_score_at_chance_on_synthetic_people(synthetic_domains) -> None:
    for domain in synthetic_domains:
        expected = chance_scores(domain.test)
        samples = random_scores(domain.test, 200)
        errors = samples.std(0, ddof=1) / math.sqrt(len(samples))
        distance = np.abs(samples.mean(0) - (expected.mAP, expected.R1))
        assert (distance < 4 * errors).all(), domain.name
        assert (errors < 0.001).all()
    average = chance_average(synthetic_domains)
    assert average["mAP"] == pytest.approx(3.5, abs=0.05), "docs/ablations.md says 3.5"
    assert average["R1"] == pytest.approx(1.7, abs=0.05)


def test_average_is_none_without_queries() -> None:
    assert chance_average([]) == {"mAP": None, "R1": None}


def test_single_gallery_shot_has_one_match_among_the_persons() -> None:
    gallery = records([(1, 0), (1, 1), (1, 1), (2, 0), (2, 1), (3, 0)])
    split = Split(records([(1, 0), (3, 0)]), gallery)
    scores = chance_scores(split, "single_gallery_shot")
    assert (scores.mAP, scores.R1) == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3, 1 / 3))
