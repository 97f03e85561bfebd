"""The measure of reading: retrieval of people by one sentence, with chance and oracle."""

import numpy as np
import pytest

from models.backbones.building import build_backbone
from models.backbones.config import TINY, TINY_VIT_BERT, BackboneConfig
from runner.tools.reading import measure_reading, oracle_map
from tasks.retrieval.random_baseline import expected_average_precision
from tasks.synthetic.captions import exact_contents
from tasks.synthetic.pool import Pool, draw_pool

KINDS = ("head", "upper", "whole", "identity")


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(1, 12, 2, seed=3, height=64, width=32)


@pytest.mark.parametrize("name", [TINY, TINY_VIT_BERT])
def test_an_untrained_backbone_reads_at_chance(name, pool):
    backbone = build_backbone(BackboneConfig(name=name, weights="random"), 0)
    scores = measure_reading(backbone, pool, KINDS)
    assert list(scores) == ["image", *KINDS]
    for kind in KINDS:
        row = scores[kind]
        assert row["chance"] == pytest.approx(100 * expected_average_precision(2, 24), abs=0.01)
        assert row["mAP"] < 3 * row["chance"] < row["oracle"] <= 100
        assert ("mAP_by_patches" in row) == (name == TINY_VIT_BERT)


def test_the_oracle_misses_only_mistakes_and_equal_people(pool):
    exact = Pool(pool.images, pool.person_ids, pool.captions, dict(pool.contents), pool.people)

    for kind in KINDS:
        exact.contents[kind] = [
            exact_contents(pool.people[person]).by_kind()[kind] for person in pool.person_ids
        ]
    assert oracle_map(exact, "whole") == pytest.approx(1)
    for kind in KINDS:
        assert oracle_map(exact, kind) >= oracle_map(pool, kind) - 1e-9


@pytest.mark.parametrize(("num_matches", "num_gallery"), [(1, 1), (1, 7), (3, 9)])
def test_expected_average_precision_equals_the_mean_over_random_rankings(num_matches, num_gallery):
    generator = np.random.default_rng(0)
    ranks = np.arange(1, num_gallery + 1)
    precisions = []
    for _ in range(4000):
        hits = generator.permutation(num_gallery) < num_matches
        precisions.append((np.cumsum(hits) / ranks)[hits].mean())
    expected = expected_average_precision(num_matches, num_gallery)
    assert np.mean(precisions) == pytest.approx(expected, abs=0.02)
