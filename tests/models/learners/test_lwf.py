"""Learning without forgetting: when it distils, over which rows, from which model."""

import dataclasses
import math

import pytest
import torch

from models.components.reid_network import Frozen
from models.learners.lwf import Config

OFF = {"distillation": {"weight": 0}}
STATISTICS = pytest.mark.parametrize("statistics", ["running", "batch"])


def of(trainer):
    """Network, and the frozen network of the past."""
    old = trainer.learner.old
    return trainer.learner.network, None if old is None else old.module


def step(trainer, number=0):
    """A step of the only stage, without an update."""
    (stage,) = trainer.learner.stages()
    trainer.learner.train()
    return trainer.learner(trainer.batch(stage, number), stage.name)


def term(trainer, number=0):
    return float(step(trainer, number).terms["distillation"].detach())


def train(trainer, num_iterations=2):
    (stage,) = trainer.learner.stages()
    return trainer.train(stage, range(num_iterations))


def on_the_same_batches(trainer):
    """Batches are drawn by the stage's name too; here methods are compared on equal ones."""
    draw = trainer.batch
    trainer.batch = lambda stage, number: draw(dataclasses.replace(stage, name="any"), number)
    return trainer


def at_second(course, **values):
    """A trainer at the beginning of its second domain."""
    trainer = course("lwf", **values)
    trainer.learn("first")
    trainer.begin("second")
    return trainer


# When -----------------------------------------------------------------------------------------


def test_the_term_is_there_from_the_second_domain_on(course):
    trainer = course("lwf")
    for number, domain in enumerate(("first", "second", "third")):
        trainer.begin(domain)
        expected = {"identity", "triplet"} | ({"distillation"} if number else set())
        assert all(set(result.terms) == expected for result in train(trainer))
        assert (trainer.learner.old is not None) == (number > 0)
        trainer.learner.end_domain(trainer.probe)
        assert trainer.learner.old is None


@pytest.mark.parametrize("mode", ["none", "fixed"])
def test_weight_zero_is_fine_tuning_to_the_last_bit(course, mode):
    states = {}
    for name, values in (("lwf", {"losses": OFF}), ("finetune", {})):
        trainer = on_the_same_batches(course(name, interpolation={"mode": mode}, **values))
        trainer.learn("first")
        trainer.begin("second")
        assert (trainer.learner.old is not None) == (mode == "fixed")
        assert set(train(trainer)[0].terms) == {"identity", "triplet"}
        trainer.learner.end_domain(trainer.probe)
        states[name] = trainer.learner.state_dict()
    for path, tensor in states["finetune"].items():
        assert torch.equal(tensor, states["lwf"][path]), path


def test_the_first_domain_is_fine_tuning_to_the_last_bit(course):
    states = []
    for name in ("lwf", "finetune"):
        trainer = on_the_same_batches(course(name))
        trainer.learn("first")
        states.append(trainer.learner.state_dict())
    for path, tensor in states[0].items():
        assert torch.equal(tensor, states[1][path]), path


def test_interpolation_alone_does_not_distil_and_both_share_one_old_model(course):
    trainer = at_second(course, interpolation={"mode": "adaptive"})
    assert sum(isinstance(module, Frozen) for module in trainer.learner.modules()) == 1
    assert "distillation" in step(trainer).terms
    trainer = at_second(course, interpolation={"mode": "adaptive"}, losses=OFF)
    assert "distillation" not in step(trainer).terms


# What -----------------------------------------------------------------------------------------


def normalised(features, neck, statistics):
    """BN by hand, row by row and feature by feature."""
    if statistics == "batch":
        mean = features.mean(0)
        variance = ((features - mean) ** 2).mean(0)
    else:
        mean, variance = neck.running_mean, neck.running_var
    return (features - mean) / (variance + 1e-5).sqrt() * neck.weight


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / sum(powers) for power in powers]


@STATISTICS
@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_equals_the_sum_over_images_and_old_people(course, statistics, temperature):
    settings = {"statistics": statistics, "temperature": temperature}
    trainer = at_second(course, losses={"distillation": settings})
    train(trainer)
    (stage,) = trainer.learner.stages()
    images = trainer.batch(stage, 5).views["weak"]
    network, old = of(trainer)
    total = 0.0
    with torch.no_grad():
        new_features, old_features = network.image(images), old.image(images)
        for end, feature in (("class", "class_token"), ("projected", "projected")):
            neck, old_neck = (getattr(each, f"neck_{end}") for each in (network, old))
            new = normalised(getattr(new_features, feature), neck, "batch")
            past = normalised(getattr(old_features, feature), old_neck, statistics)
            rows = getattr(network, f"head_{end}").weight
            old_rows = getattr(old, f"head_{end}").weight
            assert (len(rows), len(old_rows)) == (16, 8)
            for b in range(12):
                p = softmax([float(past[b] @ row) / temperature for row in old_rows])
                q = softmax([float(new[b] @ rows[c]) / temperature for c in range(8)])
                divergence = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
                total += temperature**2 * divergence / 12
    assert total > 1e-4
    assert term(trainer, 5) == pytest.approx(total, rel=1e-3)


def test_with_the_batchs_statistics_the_student_begins_as_its_teacher(course):
    found = {}
    for statistics in ("batch", "running"):
        trainer = at_second(course, losses={"distillation": {"statistics": statistics}})
        found[statistics] = term(trainer)
    assert found["batch"] == pytest.approx(0, abs=1e-6)
    assert found["running"] > 1e-3


def test_old_rows_train_and_new_rows_are_no_part_of_the_term(course):
    trainer = at_second(course)
    train(trainer)
    network, _ = of(trainer)
    before = term(trainer)
    heads = (network.head_class, network.head_projected)
    trainer.learner.zero_grad()
    step(trainer).terms["distillation"].backward()
    for head in heads:
        assert head.weight.grad[:8].abs().max() > 0
        assert head.weight.grad[8:].eq(0).all()
        with torch.no_grad():
            head.weight[8:] += 1
    assert term(trainer) == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        network.head_class.weight[3] += 1
    assert term(trainer) != pytest.approx(before, rel=1e-3)


@STATISTICS
def test_the_old_model_is_that_of_the_domains_beginning_and_stays_so(course, statistics):
    trainer = course("lwf", losses={"distillation": {"statistics": statistics}})
    trainer.learn("first")
    before = {path: value.clone() for path, value in trainer.learner.network.state_dict().items()}
    trainer.begin("second")
    train(trainer)
    network, old = of(trainer)
    kept = old.state_dict()
    assert kept.keys() == before.keys()
    for path, tensor in kept.items():
        assert torch.equal(tensor, before[path]), path
    assert not old.training
    assert not torch.equal(network.image.visual.proj, old.image.visual.proj)


def test_a_batch_counts_once_in_the_necks_statistics(course):
    pupils = [at_second(course), at_second(course, losses=OFF)]
    for trainer in pupils:
        step(trainer)
    necks = [trainer.learner.network.neck_projected for trainer in pupils]
    assert necks[0].num_batches_tracked == necks[1].num_batches_tracked == 3
    assert torch.equal(necks[0].running_mean, necks[1].running_mean)
    assert torch.equal(necks[0].running_var, necks[1].running_var)


@STATISTICS
def test_larger_weight_keeps_predictions_closer(course, statistics):
    drift = []
    for weight in (1e-6, 1.0):
        losses = {"distillation": {"weight": weight, "statistics": statistics}}
        trainer = at_second(course, losses=losses)
        train(trainer, 6)
        drift.append(term(trainer, 6))
    assert drift[1] < 0.95 * drift[0]


# Settings -------------------------------------------------------------------------------------


def test_distillation_without_trained_classifiers_is_rejected():
    message = (
        r"distillation compares classifiers.* identity\.weight > 0 or distillation\.weight = 0"
    )
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"losses": {"identity": {"weight": 0}}})
    Config.model_validate({"losses": {"identity": {"weight": 0}, **OFF}})
    with pytest.raises(ValueError, match="the image tower has no loss"):
        Config.model_validate(
            {"losses": {"identity": {"weight": 0}, "triplet": {"weight": 0}, **OFF}}
        )
    with pytest.raises(ValueError, match="greater than 0"):
        Config.model_validate({"losses": {"distillation": {"temperature": 0}}})
