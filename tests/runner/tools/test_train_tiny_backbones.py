"""Pretraining of the tiny backbones, and the shipped weights."""

import json
import math

import numpy as np
import pytest
import torch

from models.backbones import vit_bert_weights
from models.backbones.building import build_backbone
from models.backbones.clip import BackboneConfig, build
from models.backbones.config import TINY, TINY_VIT_BERT
from models.backbones.weights import file_sha256
from runner.tools import train_tiny_backbones
from runner.tools.train_tiny_backbones import (
    KINDS,
    RECIPES,
    WARM_FILES,
    WarmStartConfig,
    learning_rate,
    measure,
    recipe,
    save,
    train,
)
from tasks.synthetic import GENERATOR_VERSION
from tasks.synthetic.captions import vocabulary
from tasks.synthetic.pool import Pool, draw_pool

TINY_RUN = WarmStartConfig(num_steps=3, batch_size=6, warmup_steps=2)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(2, 5, 2, seed=3, height=64, width=32)


def test_both_towers_of_vit_bert_are_trained_and_restored(pool, tmp_path):
    trained = train(TINY_RUN, pool, TINY_VIT_BERT)
    untrained = build_backbone(BackboneConfig(name=TINY_VIT_BERT, weights="random"), TINY_RUN.seed)
    path = tmp_path / "weights.safetensors"
    save(trained, path, {})
    loaded = build_backbone(BackboneConfig(name=TINY_VIT_BERT, weights=str(path)), 5)
    for key, tensor in trained.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    before = dict(untrained.named_parameters())
    still = [key for key, each in trained.named_parameters() if each.equal(before[key])]
    assert not still
    assert set(measure(trained, pool, TINY_VIT_BERT)) > set(KINDS[TINY_VIT_BERT])


def test_the_shipped_tokenizer_covers_the_vocabulary():
    shipped = vit_bert_weights.read_tokenizer(vit_bert_weights.TOKENIZER_FILE)
    assert shipped.to_str() == train_tiny_backbones.make_tokenizer().to_str()
    for word in (*vocabulary(), "photo", "x"):
        assert shipped.encode(word).tokens == [word]


def test_training_is_reproducible_and_keeps_the_token_embedding(pool):
    first, again = train(TINY_RUN, pool), train(TINY_RUN, pool)
    untrained = build(BackboneConfig(weights="random"), TINY_RUN.seed).state_dict()
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    changed = {
        key for key, tensor in first.state_dict().items() if not tensor.equal(untrained[key])
    }
    assert "image.visual.conv1.weight" in changed
    assert "text.text_projection" in changed
    assert not changed & {"text.token_embedding.weight", "text.logit_scale"}


def test_saved_weights_are_restored(pool, tmp_path):
    trained = train(TINY_RUN, pool)
    path = tmp_path / "weights.safetensors"
    save(trained, path, {"recipe": TINY_RUN.model_dump()})
    loaded = build(BackboneConfig(weights=str(path)), seed=5)
    for key, tensor in trained.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["recipe"]["num_steps"] == 3
    assert path.stat().st_size < 2.5e6


def test_learning_rate_schedule():
    config = WarmStartConfig(num_steps=100, warmup_steps=10, lr=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


def test_batches_do_not_repeat_images_within_a_pass():
    batches = train_tiny_backbones._Batches(20, WarmStartConfig(batch_size=6))
    passes = torch.cat([batches.next()[0] for _ in range(3)])
    assert len(set(passes.tolist())) == 18
    rows, seeds = batches.next()
    assert rows.shape == (6,)
    assert len(set(seeds.tolist())) == 6


@pytest.mark.parametrize(("num_matches", "num_gallery"), [(1, 1), (1, 7), (3, 9)])
def test_random_map_equals_the_mean_over_random_rankings(num_matches, num_gallery):
    generator = np.random.default_rng(0)
    ranks = np.arange(1, num_gallery + 1)
    precisions = []
    for _ in range(4000):
        hits = generator.permutation(num_gallery) < num_matches
        precisions.append((np.cumsum(hits) / ranks)[hits].mean())
    expected = train_tiny_backbones._random_map(num_matches, num_gallery)
    assert np.mean(precisions) == pytest.approx(expected, abs=0.02)


def test_the_command_writes_weights_and_facts(tmp_path, monkeypatch, capsys):
    small = {"num_domains": 2, "num_identities": 3, "batch_size": 4}
    defaults = WarmStartConfig
    monkeypatch.setattr(
        train_tiny_backbones, "WarmStartConfig", lambda **given: defaults(**given, **small)
    )
    path = tmp_path / "made" / "tiny.safetensors"
    train_tiny_backbones.main(["--steps", "2", "--output", str(path)])
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["generator_version"] == GENERATOR_VERSION
    assert facts["command"] == "python -m runner.tools.train_tiny_backbones --steps 2 --seed 0"
    assert all(math.isfinite(value) for value in facts["zero_shot_map_percent"].values())
    assert f"wrote {path}" in capsys.readouterr().out


@pytest.mark.parametrize("name", WARM_FILES)
def test_the_shipped_weights_match_their_facts(name):
    path = WARM_FILES[name]
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["generator_version"] == GENERATOR_VERSION, "train the weights again"
    assert facts["recipe"] == recipe(name).model_dump()
    assert facts["command"].endswith(f"--steps {facts['recipe']['num_steps']} --seed 0")
    assert path.stat().st_size < 2.5e6


@pytest.fixture(scope="module")
def held_out() -> Pool:
    return train_tiny_backbones._generate_pool(
        WarmStartConfig(), *train_tiny_backbones.HELD_OUT, "held out"
    )


def scores_of_shipped(name, held_out):
    """Evaluates the shipped weights and compares the scores with their JSON file."""
    facts = json.loads(WARM_FILES[name].with_suffix(".json").read_text())
    scores = measure(build_backbone(BackboneConfig(name=name), seed=0), held_out, name)
    assert scores == pytest.approx(facts["zero_shot_map_percent"], abs=0.3)
    return scores


def test_zero_shot_scores_of_tiny_clip(held_out):
    scores = scores_of_shipped(TINY, held_out)
    assert 5 * scores["image_chance"] < scores["image"] < 80
    for kind in ("upper", "lower", "whole"):
        assert scores[kind] > 3 * scores["text_chance"]
    for kind in ("head", "foot"):
        assert scores[kind] > 1.2 * scores["text_chance"]


def test_zero_shot_scores_of_tiny_vit_bert(held_out):
    scores = scores_of_shipped(TINY_VIT_BERT, held_out)
    assert 5 * scores["image_chance"] < scores["image"] < 80
    for end in ("", "_by_patches"):
        assert scores[f"caption{end}"] > 5 * scores["text_chance"]
        for kind in ("upper", "clothing"):
            assert scores[kind + end] > 2 * scores["text_chance"]


def test_recipes():
    shipped = recipe(TINY_VIT_BERT)
    assert shipped.lr == RECIPES[TINY_VIT_BERT]["lr"] != WarmStartConfig().lr
    assert recipe(TINY) == WarmStartConfig()
    other = recipe(TINY_VIT_BERT, num_steps=7, seed=3)
    assert other == shipped.model_copy(update={"num_steps": 7, "seed": 3})
