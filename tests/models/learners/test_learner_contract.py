"""What every learner owes the loop; a new file in models/learners is tested without being named."""

from __future__ import annotations

import importlib

import pytest
import torch

from models.components.reid_network import Frozen, ReidNetwork
from models.learner import Learner, LearnerConfig
from runner.training.optim import set_trainable
from tests.models.learner_cases import (
    CASES,
    CLASSIFYING,
    HEADS,
    LEARNERS,
    LEARNING,
    LEARNING_CASES,
    embedded,
)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_module_holds_a_config_and_a_final_method(name):
    module = importlib.import_module(f"models.learners.{name}")
    assert issubclass(module.Config, LearnerConfig)
    assert module.Config().name == name
    assert issubclass(module.Method, Learner)
    assert getattr(module.Method, "__final__", False), "decorate Method with typing.final"


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - set(LEARNING)))
def test_what_has_no_course_learns_nothing(course, name):
    trainer = course(name)
    before = embedded(trainer)
    trainer.learn("first", "second")
    trainer.begin("none")
    assert trainer.learner.stages() == ()
    trainer.images = course(name).images
    assert torch.equal(embedded(trainer), before)


@pytest.mark.parametrize("name", LEARNING)
def test_stages_are_known_before_the_first_domain(course, name):
    stages = course(name).learner.stages()
    assert len({stage.name for stage in stages}) == len(stages) > 0
    for stage in stages:
        assert stage.epochs >= 1
        assert set(stage.views) <= {"weak", "strong"}


@pytest.mark.parametrize(("name", "values"), CASES)
def test_every_trainable_parameter_receives_a_gradient_and_no_other(course, name, values):
    trainer = course(name, **values)
    for domain in ("first", "second"):
        trainer.begin(domain)
        for stage in trainer.learner.stages():
            trainable = set(set_trainable(trainer.learner, stage.trainable))
            trainer.learner.train()
            trainer.learner(trainer.batch(stage, 0), stage.name).loss.backward()
            touched = {p for p, v in trainer.learner.named_parameters() if v.grad is not None}
            assert touched == trainable, (domain, stage.name)
            trainer.train(stage)
            trainer.learner.end_stage(stage.name, trainer.probe)
        trainer.learner.end_domain(trainer.probe)


@pytest.mark.parametrize(("name", "values"), LEARNING_CASES)
def test_the_length_of_every_domain_is_known_at_any_time(course, name, values):
    trainer = course(name, **values)
    asked, found = [], []
    for domain in ("first", "second", "third"):
        asked.append([trainer.learner.planned_epochs(number) for number in range(3)])
        trainer.begin(domain)
        found.append(sum(stage.epochs for stage in trainer.learner.stages()))
        asked.append([trainer.learner.planned_epochs(number) for number in range(3)])
        trainer.finish()
    assert all(planned == found for planned in asked)


@pytest.mark.parametrize(("name", "values"), LEARNING_CASES)
def test_the_loss_is_the_weighted_sum_of_its_terms(course, name, values):
    trainer = course(name, **values)
    trainer.learn("first")
    trainer.begin("second")
    for stage in trainer.learner.stages():
        for result in trainer.train(stage):
            assert result.terms.keys() == result.weights.keys()
            wanted = sum(result.weights[term] * value for term, value in result.terms.items())
            assert torch.allclose(result.loss, wanted)
            assert result.loss.isfinite()
            assert all(value.ndim == 0 for value in result.terms.values())
        trainer.learner.end_stage(stage.name, trainer.probe)


@pytest.mark.parametrize("name", LEARNERS)
def test_embeddings_are_unit_vectors_and_each_image_has_its_own(course, name):
    trainer = course(name)

    def embed(images):
        trainer.learner.eval()
        with torch.no_grad():
            return trainer.learner.embed_images(images)

    images = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    before = embed(images)
    trainer.learn("first")
    for embeddings in (before, embed(images)):
        assert embeddings.isfinite().all()
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(6), atol=1e-5)
        assert embeddings.std(0).max() > 0
    assert torch.allclose(embed(images)[2:3], embed(images[2:3]), atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFYING)
def test_classifiers_grow_and_old_rows_stay_until_trained(course, name):
    trainer = course(name)
    network = getattr(trainer.learner, "network", None)
    assert isinstance(network, ReidNetwork), "a learner without it needs a contract of its own"
    trainer.learn("first")
    assert network.num_identities == 8
    before = {head: getattr(network, head).weight.clone() for head in HEADS}
    trainer.begin("second")
    for head in HEADS:
        weight = getattr(network, head).weight
        assert len(weight) == 16
        assert torch.equal(weight[:8], before[head])
    trainer.finish()
    for head in HEADS:
        assert not torch.equal(getattr(network, head).weight[:8], before[head])


@pytest.mark.parametrize("name", CLASSIFYING)
def test_people_of_a_later_domain_have_the_later_rows(course, name, monkeypatch):
    trainer = course(name)
    network, seen = getattr(trainer.learner, "network", None), []
    assert isinstance(network, ReidNetwork), "a learner without it needs a contract of its own"
    original = network.identity_terms

    def spy(*arguments):
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        (targets,) = [tensor for tensor in tensors if not tensor.is_floating_point()]
        seen.append(targets)
        return original(*arguments)

    monkeypatch.setattr(network, "identity_terms", spy)
    trainer.learn("first")
    assert torch.cat(seen).max() < 8
    seen.clear()
    trainer.begin("second")
    for stage in trainer.learner.stages():
        trainer.train(stage, range(1))
        trainer.learner.end_stage(stage.name, trainer.probe)
        wanted = trainer.batch(stage, 0).person_ids + 8
        assert all(torch.equal(targets, wanted) for targets in seen)
    assert seen


def assert_modes(learner, training):
    """Whether all stands in one mode, except what is frozen, which always stands in eval mode."""
    frozen = {path for path, module in learner.named_modules() if isinstance(module, Frozen)}
    for path, module in learner.named_modules():
        is_frozen = any(path == each or path.startswith(f"{each}.") for each in frozen)
        assert module.training == (training and not is_frozen), path


@pytest.mark.parametrize(("name", "values"), CASES)
def test_no_call_leaves_a_part_in_another_mode(course, name, values):
    trainer = course(name, **values)
    learner = trainer.learner
    for domain in ("first", "second"):
        for training in (False, True):
            learner.train(training)
            with torch.no_grad():
                learner.embed_images(trainer.images)
            assert_modes(learner, training)
        trainer.begin(domain)
        assert_modes(learner, True)
        for stage in learner.stages():
            trainer.train(stage)
            assert_modes(learner, True)
            embedded(trainer)
            assert_modes(learner, True)
            learner.end_stage(stage.name, trainer.probe)
            assert_modes(learner, True)
        learner.end_domain(trainer.probe)
        assert_modes(learner, True)
