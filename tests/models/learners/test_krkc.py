"""KRKC: what both models learn, of which images, and what becomes of the two."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from models.components.exemplars import farthest_images
from models.learner import ReplayShape
from models.learners.krkc import Config
from models.losses.distillation import jensen_shannon
from runner.training.optim import build_optimizer, set_trainable

FIRST_TERMS = {"identity", "triplet"}
MODEL_TERMS = FIRST_TERMS | {"replay_triplet"}
ALL_TERMS = MODEL_TERMS | {f"memory_{name}" for name in MODEL_TERMS} | {"rectification"}


def off(*terms):
    return {term: {"weight": 0} for term in terms}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def second_domain(course, **values):
    """A course some steps into its second domain."""
    trainer = course("krkc", **values)
    trainer.learn("first")
    trainer.begin("second")
    stir(trainer.learner.memory)
    trainer.train(trainer.learner.stages()[0])
    return trainer


def stir(model):
    """Moves the memory model away from the working one, farther than a few steps do."""
    draw = generator(5)
    with torch.no_grad():
        for parameter in model.parameters() if model is not None else ():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))


def state_of(module):
    return {path: tensor.clone() for path, tensor in module.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for path, tensor in first.items():
        assert torch.equal(tensor, second[path]), path


# ---- the domain's course


def test_the_first_domain_has_one_model_and_no_exemplars(course):
    trainer = course("krkc")
    trainer.begin("first")
    assert set(trainer.terms("krkc")) == FIRST_TERMS
    assert trainer.learner.memory is None
    assert trainer.learner.replay_records() == ()
    assert trainer.learner.stored_bytes_per_domain() == 0
    trainer.finish()
    assert trainer.learner.memory is None
    width = trainer.learner.network.embed(trainer.images).shape[1]
    assert trainer.learner.embed_images(trainer.images).shape[1] == width


def test_the_memory_model_begins_as_a_copy_and_both_learn(course):
    trainer = course("krkc")
    trainer.learn("first")
    trainer.begin("second")
    before = state_of(trainer.learner.network)
    assert_same(before, state_of(trainer.learner.memory))
    trainer.train(trainer.learner.stages()[0])
    for model in (trainer.learner.network, trainer.learner.memory):
        after = state_of(model)
        for path in ("head_class.weight", "neck_projected.weight", "image.visual.proj"):
            assert not torch.equal(after[path], before[path]), path
    stir(trainer.learner.memory)
    trained = state_of(trainer.learner.memory)
    trainer.learner.end_domain(trainer.probe)
    trainer.begin("third")
    assert not torch.equal(trained["image.visual.proj"], trainer.learner.memory.image.visual.proj)
    assert_same(state_of(trainer.learner.network), state_of(trainer.learner.memory))


def test_the_memory_model_has_rates_of_its_own_by_domain(course):
    trainer = course("krkc", memory_lr_factors=(0.5, 0.25), optimizer={"lr": 1.0})
    rates = []
    for name in ("first", "second", "third", "fourth"):
        trainer.begin(name)
        (stage,) = trainer.learner.stages()
        set_trainable(trainer.learner, stage.trainable)
        groups = build_optimizer(trainer.learner, stage.optimizer).param_groups
        factors = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
        paths = trainer.learner.named_parameters()
        rates.append(
            {(path.split(".")[0], factors[id(p)]) for path, p in paths if id(p) in factors}
        )
        trainer.learner.end_domain(trainer.probe)
    working = ("network", 1.0)
    assert rates == [
        {working}, {working, ("memory", 0.5)}, {working, ("memory", 0.25)},
        {working, ("memory", 0.25)},
    ]  # fmt: skip


def test_every_term_is_there_and_weighted_by_its_section(course):
    losses = {"identity": {"weight": 0.5}, "replay_triplet": {"weight": 3}}
    trainer = second_domain(course, losses={**losses, "rectification": {"weight": 7}})
    (stage,) = trainer.learner.stages()
    result = trainer.learner(trainer.batch(stage, 3), stage.name)
    assert set(result.terms) == ALL_TERMS
    assert result.weights["identity"] == result.weights["memory_identity"] == 0.5
    assert result.weights["replay_triplet"] == result.weights["memory_replay_triplet"] == 3
    assert result.weights["triplet"] == result.weights["memory_triplet"] == 1
    assert result.weights["rectification"] == 7


@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
def test_the_terms_are_those_of_two_plain_networks(course, mixture):
    rectification = {"temperature": 3.0, "mixture": mixture}
    trainer = second_domain(course, losses={"rectification": rectification})
    learner = trainer.learner
    (stage,) = learner.stages()
    batch = trainer.batch(stage, 5)
    learner.train()
    models = {"": copy.deepcopy(learner.network), "memory_": copy.deepcopy(learner.memory)}
    found = {name: term.item() for name, term in learner(batch, stage.name).terms.items()}
    logits = []
    for prefix, model in models.items():
        new = model.image(batch.views["weak"])
        old = model.image(batch.replay.views["weak"])
        losses = learner.config.losses
        targets = batch.person_ids + 8
        reference = copy.deepcopy(model)
        terms = reference.identity_terms(new.named(), targets, losses.identity, losses.triplet)
        for name, term in terms.items():
            assert found[prefix + name] == pytest.approx(term.item(), rel=1e-4)
        assert found[f"{prefix}replay_triplet"] == pytest.approx(
            naive_triplet(old.projected.tolist(), batch.replay.person_ids.tolist(), 0.3), rel=1e-4
        )
        logits.append(
            (
                model.head_class(model.neck_class(new.class_token)),
                model.head_projected(model.neck_projected(new.projected)),
            )
        )
    wanted = sum(jensen_shannon(a, b, 3.0, mixture) for a, b in zip(*logits, strict=True))
    assert found["rectification"] == pytest.approx(wanted.item(), rel=1e-3)
    assert found["rectification"] > 0


def naive_triplet(features, person_ids, margin):
    losses = []
    for index, anchor in enumerate(features):
        distances = [math.dist(anchor, other) for other in features]
        same = [
            d for other, d in enumerate(distances)
            if person_ids[other] == person_ids[index] and other != index
        ]  # fmt: skip
        others = [d for other, d in enumerate(distances) if person_ids[other] != person_ids[index]]
        losses.append(max(0.0, max(same) - min(others) + margin))
    return sum(losses) / len(losses)


def test_running_statistics_count_the_new_batch_and_the_exemplars_once(course):
    trainer = second_domain(course)
    learner = trainer.learner
    (stage,) = learner.stages()
    batch = trainer.batch(stage, 5)
    learner.train()
    models = [copy.deepcopy(learner.network), copy.deepcopy(learner.memory)]
    learner(batch, stage.name)
    for wanted, model in zip(models, (learner.network, learner.memory), strict=True):
        for part in (batch, batch.replay):
            features = wanted.image(part.views["weak"])
            wanted.neck_class(features.class_token)
            wanted.neck_projected(features.projected)
        for neck in ("neck_class", "neck_projected"):
            mine, naive = getattr(model, neck), getattr(wanted, neck)
            assert torch.allclose(mine.running_mean, naive.running_mean, atol=1e-5)
            assert torch.allclose(mine.running_var, naive.running_var, atol=1e-5)


@pytest.mark.parametrize(
    ("consolidation", "shares"),
    [
        ({}, (1 / 2, 1 / 3)),
        ({"weights": "fixed", "alpha": 0.8}, (0.8, 0.8)),
        ({"weights": "none"}, (1.0, 1.0)),
    ],
)
def test_weights_are_consolidated_after_each_domain(course, consolidation, shares):
    trainer = course("krkc", consolidation=consolidation)
    learner = trainer.learner
    trainer.learn("first")
    for name, share in zip(("second", "third"), shares, strict=True):
        trainer.begin(name)
        stir(learner.memory)
        trainer.train(learner.stages()[0])
        working, memory = state_of(learner.network), state_of(learner.memory)
        learner.end_domain(trainer.probe)
        assert_same(memory, state_of(learner.memory))
        for path, tensor in state_of(learner.network).items():
            if tensor.is_floating_point():
                wanted = share * working[path] + (1 - share) * memory[path]
                assert torch.allclose(tensor, wanted, atol=1e-6), path


def test_exemplars_are_the_farthest_for_the_working_model_before_it_is_mixed(course):
    trainer = second_domain(course, exemplars={"num_persons": 100})
    learner = trainer.learner
    (first_kept, offset) = (learner.replay_records(), 8)
    assert {record.person_id for record in first_kept} == set(range(8))
    assert all(record.image_path.startswith("first/") for record in first_kept)
    embeddings = trainer.probe(lambda images: {"e": learner.network.embed(images)})["e"]
    chosen = farthest_images(embeddings.double(), torch.from_numpy(trainer.domain.person_ids), 2)
    learner.end_domain(trainer.probe)
    kept = learner.replay_records()
    assert kept[: len(first_kept)] == first_kept
    wanted = [trainer.domain.train[index] for index in chosen.tolist()]
    found = [(record.image_path, record.person_id) for record in kept[len(first_kept) :]]
    assert found == [(record.image_path, record.person_id + offset) for record in wanted]


def test_stored_bytes_count_the_exemplars(course):
    trainer = course("krkc", exemplars={"num_persons": 3, "with_replacement": False})
    trainer.learn("first", "second")
    assert len(trainer.learner.replay_records()) == 12
    assert trainer.learner.stored_bytes_per_domain() == 6 * 32 * 16 * 3
    trainer.begin("third")
    assert trainer.learner.stored_bytes_per_domain() == 6 * 32 * 16 * 3


def test_images_are_embedded_by_both_models_or_by_one(course):
    for features in ("both", "working"):
        trainer = second_domain(course, consolidation={"features": features})
        learner = trainer.learner.eval()
        with torch.no_grad():
            found = learner.embed_images(trainer.images)
            working = learner.network.embed(trainer.images)
            memory = learner.memory.embed(trainer.images)
        if features == "working":
            assert torch.equal(found, working)
            continue
        for row, one, other in zip(found, working, memory, strict=True):
            joined = torch.cat([one, other])
            assert torch.allclose(row, joined / joined.norm(), atol=1e-6)


# ---- parts switched off


def test_replay_alone_needs_no_second_model(course):
    trainer = second_domain(
        course,
        losses=off("rectification"),
        consolidation={"weights": "none", "features": "working"},
    )
    assert trainer.learner.memory is None
    assert set(trainer.terms("krkc")) == MODEL_TERMS


def test_without_replay_nothing_is_kept(course):
    trainer = second_domain(course, losses=off("replay_triplet"))
    learner = trainer.learner
    assert learner.replay_shape is None
    assert learner.replay_records() == ()
    assert learner.stored_bytes_per_domain() == 0
    assert set(trainer.terms("krkc")) == ALL_TERMS - {"replay_triplet", "memory_replay_triplet"}
    learner.end_domain(trainer.probe)
    assert learner.replay_records() == ()


def test_the_shape_of_replay_is_the_configured_one(course):
    replay = {"persons_per_batch": 5, "images_per_person": 3}
    assert course("krkc", replay=replay).learner.replay_shape == ReplayShape(5, 3)


def test_invalid_settings_are_rejected():
    with pytest.raises(ValueError, match="rectification compares classifiers"):
        Config.model_validate({"losses": off("identity")})
    with pytest.raises(ValueError, match="no loss"):
        Config.model_validate({"losses": off("identity", "triplet", "rectification")})
    for factors in ([0.1, -0.1], []):
        with pytest.raises(ValueError, match=r"memory_lr_factors\n.*at least one factor"):
            Config.model_validate({"memory_lr_factors": factors})
