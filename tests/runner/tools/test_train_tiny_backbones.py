"""Pretraining of the tiny backbones, and the shipped weights."""

import json
import re

import pytest
import torch

from models.backbones import vit_bert_weights
from models.backbones.building import build_backbone
from models.backbones.clip import BackboneConfig, build
from models.backbones.config import TINY, TINY_VIT_BERT
from models.backbones.weights import file_sha256
from runner.tools import train_tiny_backbones
from runner.tools.pretraining import (
    ATTRIBUTES,
    Pretraining,
    PretrainingConfig,
    attribute_targets,
    learning_rate,
)
from runner.tools.reading import measure_reading
from runner.tools.train_tiny_backbones import HELD_OUT, WARM_FILES, make_pool, recipe, save
from tasks.synthetic import GENERATOR_VERSION
from tasks.synthetic.captions import PARTS, vocabulary
from tasks.synthetic.pool import Pool, draw_pool

LEAST = {
    TINY: {"head": 22, "upper": 22, "lower": 20, "foot": 22, "whole": 75},
    TINY_VIT_BERT: {"identity": 14, "clothing": 60},
}
"""Least mAP in percent of the shipped weights on held-out people."""

KINDS = ("head", "whole", "identity")


def tiny_run(name=TINY, **settings):
    return PretrainingConfig(
        backbone=name,
        kinds=KINDS,
        **{"num_steps": 3, "batch_size": 6, "warmup_steps": 2} | settings,
    )


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(2, 5, 2, seed=3, height=64, width=32)


def states_equal(one, other):
    return all(tensor.equal(other.state_dict()[key]) for key, tensor in one.state_dict().items())


def test_both_towers_of_vit_bert_are_trained_and_restored(pool, tmp_path):
    trained = Pretraining(tiny_run(TINY_VIT_BERT), pool).run()
    untrained = build_backbone(BackboneConfig(name=TINY_VIT_BERT, weights="random"), 0)
    path = tmp_path / "weights.safetensors"
    save(trained, path, {})
    assert states_equal(
        trained, build_backbone(BackboneConfig(name=TINY_VIT_BERT, weights=str(path)), 5)
    )
    before = dict(untrained.named_parameters())
    assert not [key for key, each in trained.named_parameters() if each.equal(before[key])]


def test_an_interrupted_training_ends_with_the_same_weights(pool, tmp_path, monkeypatch):
    config, state_file = tiny_run(num_steps=5), tmp_path / "run.state"
    unbroken = Pretraining(config, pool).run()
    broken, update = Pretraining(config, pool), Pretraining._update

    def fail_at_four(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(Pretraining, "_update", fail_at_four)
    with pytest.raises(KeyboardInterrupt):
        broken.run(state_file, save_every=2)
    monkeypatch.undo()
    continued = Pretraining(config, pool)
    assert states_equal(continued.run(state_file), unbroken)
    with pytest.raises(ValueError, match="same configuration"):
        Pretraining(tiny_run(num_steps=6), pool).run(state_file)


def test_equal_contents_are_positives_in_any_wording(pool):
    training = Pretraining(tiny_run(), pool)
    for kind, sentences in training.sentences.items():
        by_content: dict[int, set[str]] = {}
        for text, content in zip(pool.captions[kind], sentences.contents.tolist(), strict=True):
            by_content.setdefault(content, set()).add(text)
        for row, text in enumerate(pool.captions[kind]):
            distinct = int(sentences.rows[row])
            assert (sentences.rows == distinct).sum() == pool.captions[kind].count(text)
        assert len(by_content) == len(set(pool.contents[kind]))


def test_attribute_targets_mask_what_is_not_shown(pool):
    targets, sizes = attribute_targets(pool.people)
    for column, name in enumerate(ATTRIBUTES):
        words = sorted({str(getattr(person, name)) for person in pool.people})
        assert sizes[column] == len(words)
        for row, person in enumerate(pool.people):
            if targets[row, column] >= 0:
                assert words[targets[row, column]] == str(getattr(person, name))
            else:
                assert name in ("hair", "hair_colour") or name.endswith("_colour")
    absent = [row for row, person in enumerate(pool.people) if person.bag == "none"]
    assert (targets[absent, ATTRIBUTES.index("bag_colour")] < 0).all()


def test_the_shipped_tokenizer_covers_the_vocabulary():
    shipped = vit_bert_weights.read_tokenizer(vit_bert_weights.TOKENIZER_FILE)
    assert shipped.to_str() == train_tiny_backbones.make_tokenizer().to_str()
    for word in (*vocabulary(), "photo", "x"):
        assert shipped.encode(word).tokens == [word]


def test_training_is_reproducible_and_keeps_the_token_embedding(pool):
    first, again = (Pretraining(tiny_run(), pool).run() for _ in range(2))
    assert states_equal(first, again)
    untrained = build(BackboneConfig(weights="random"), 0).state_dict()
    changed = {
        key for key, tensor in first.state_dict().items() if not tensor.equal(untrained[key])
    }
    assert "image.visual.conv1.weight" in changed
    assert "text.text_projection" in changed
    assert not changed & {"text.token_embedding.weight", "text.logit_scale"}


def test_saved_weights_are_restored(pool, tmp_path):
    config = tiny_run()
    trained = Pretraining(config, pool).run()
    path = tmp_path / "weights.safetensors"
    save(trained, path, {"recipe": config.model_dump(mode="json")})
    assert states_equal(trained, build(BackboneConfig(weights=str(path)), seed=5))
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["recipe"]["num_steps"] == 3
    assert path.stat().st_size < 6e6


def test_learning_rate_schedule():
    config = tiny_run(num_steps=100, warmup_steps=10, lr=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


def test_batches_do_not_repeat_images_within_a_pass(pool):
    training = Pretraining(tiny_run(), pool)
    passes = torch.cat([training._next_batch()[0] for _ in range(3)])
    assert len(set(passes.tolist())) == 18
    rows, seeds = training._next_batch()
    assert rows.shape == (6,)
    assert len(set(seeds.tolist())) == 6


def test_the_command_writes_weights_and_facts(tmp_path, monkeypatch, capsys):
    small = {"num_domains": 2, "num_identities": 3, "batch_size": 4}
    defaults = PretrainingConfig
    monkeypatch.setattr(
        train_tiny_backbones, "PretrainingConfig", lambda **given: defaults(**given, **small)
    )
    monkeypatch.setattr(train_tiny_backbones, "HELD_OUT", (1, 4))
    path = tmp_path / "made" / "tiny.safetensors"
    train_tiny_backbones.main(["--steps", "2", "--output", str(path)])
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["generator_version"] == GENERATOR_VERSION
    assert facts["command"] == "python -m runner.tools.train_tiny_backbones --steps 2 --seed 0"
    printed = capsys.readouterr().out
    for kind in ("image", *facts["recipe"]["kinds"]):
        assert 0 < facts["held_out"][kind]["mAP"] <= 100
        assert re.search(rf"^{kind} .*\d", printed, re.MULTILINE)
    assert f"wrote {path}" in printed
    assert not list(path.parent.glob("*.state"))


@pytest.mark.parametrize("name", WARM_FILES)
def test_the_shipped_weights_match_their_facts(name):
    path = WARM_FILES[name]
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["generator_version"] == GENERATOR_VERSION, "train the weights again"
    assert facts["recipe"] == recipe(name).model_dump(mode="json")
    assert facts["command"].endswith(f"--steps {facts['recipe']['num_steps']} --seed 0")
    assert path.stat().st_size < 6e6


@pytest.fixture(scope="module")
def held_out() -> Pool:
    return make_pool(recipe(TINY), *HELD_OUT, "held out")


@pytest.mark.parametrize("name", WARM_FILES)
def test_the_shipped_weights_read_as_their_facts_say(name, held_out):
    facts = json.loads(WARM_FILES[name].with_suffix(".json").read_text())
    backbone = build_backbone(BackboneConfig(name=name), seed=0)
    scores = measure_reading(backbone, held_out, recipe(name).kinds)
    for kind, row in scores.items():
        assert row == pytest.approx(facts["held_out"][kind], abs=0.3)
    for kind, least in LEAST[name].items():
        assert scores[kind]["mAP"] >= least
    for kind in set(PARTS) & set(scores):  # one of the rules of docs/synthetic.md
        assert scores[kind]["mAP"] > 0.3 * scores[kind]["oracle"]


def test_recipes():
    shipped = recipe(TINY_VIT_BERT)
    assert shipped.backbone == TINY_VIT_BERT
    other = recipe(TINY_VIT_BERT, num_steps=7, seed=3)
    assert other == shipped.model_copy(update={"num_steps": 7, "seed": 3})
