"""Trainable parameters, optimiser groups and learning-rate schedules."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.learner import OptimizerConfig, ScheduleConfig
from runner.training.optim import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
    set_trainable,
)

PER_EPOCH, TOTAL = 10, 60


def module():
    return nn.ModuleDict({"tower": nn.Linear(3, 3), "head_a": nn.Linear(3, 2, bias=False)})


def factors(iterations, **schedule):
    config = ScheduleConfig(**schedule)
    return [learning_rate_factor(config, number, PER_EPOCH, TOTAL) for number in iterations]


# The learning rate ----------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [{"warmup_iterations": 20}, {"warmup_epochs": 2}])
def test_constant_schedule_after_linear_warm_up(warmup):
    result = factors([0, 5, 10, 19, 20, 59], kind="constant", warmup_factor=0.2, **warmup)
    assert result == pytest.approx([0.2, 0.4, 0.6, 0.96, 1.0, 1.0])


def test_no_warm_up():
    assert factors([0, 1, 59]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "milestones", [{"milestone_iterations": (40, 20)}, {"milestone_epochs": (2, 4)}]
)
def test_multistep_schedule(milestones):
    result = factors([0, 19, 20, 39, 40, 59], kind="multistep", gamma=0.5, **milestones)
    assert result == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_milestone_during_warm_up():
    schedule = {"kind": "multistep", "warmup_epochs": 4, "warmup_factor": 0.5, "gamma": 0.1}
    result = factors([0, 20, 39, 40], milestone_iterations=(20,), **schedule)
    assert result == pytest.approx([0.5, 0.075, 0.0 + 0.1 * (0.5 + 0.5 * 39 / 40), 0.1])


@pytest.mark.parametrize("warmup", [{"warmup_iterations": 10}, {"warmup_epochs": 1}])
def test_cosine_schedule(warmup):
    schedule = {"kind": "cosine", "warmup_factor": 0.1, "final_factor": 0.2, **warmup}
    result = factors([0, 5, 10, 35, 60, 100], **schedule)
    assert result == pytest.approx([0.1, 0.55, 1.0, 0.6, 0.2, 0.2])
    assert factors([25], **schedule) == pytest.approx(
        [0.2 + 0.8 * (1 + math.cos(math.pi * 15 / 50)) / 2]
    )


def test_fractional_epochs():
    result = factors([0, 2, 5], warmup_epochs=0.5, warmup_factor=0.5)
    assert result == pytest.approx([0.5, 0.7, 1.0])
    assert factors([4, 5], kind="multistep", milestone_epochs=(0.5,)) == pytest.approx([1, 0.1])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["constant", "cosine", "multistep"]),
    st.integers(0, 80),
    st.integers(0, 70),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_the_factor_is_in_the_unit_interval(kind, iteration, warmup, start, final):
    (factor,) = factors(
        [iteration],
        kind=kind,
        warmup_iterations=warmup,
        warmup_factor=start,
        final_factor=final,
        milestone_epochs=(3,),
    )
    assert 0 <= factor <= 1 + 1e-12


@pytest.mark.parametrize("length", ["warmup", "milestone"])
def test_epochs_and_iterations_are_exclusive(length):
    value = {"warmup": 1, "milestone": (1,)}[length]
    with pytest.raises(ValueError, match=f"give {length}_epochs or {length}_iterations, not both"):
        ScheduleConfig(**{f"{length}_epochs": value, f"{length}_iterations": value})


# Trainable parameters -------------------------------------------------------------------------


def test_only_matching_parameters_are_trainable():
    model = module()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert set_trainable(model, ["tower.*"]) == ["tower.weight", "tower.bias"]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False]
    assert all(p.grad is None for p in model.parameters()), (
        "gradients of the previous stage are cleared"
    )
    assert set_trainable(model, ["head_?.weight", "*.bias"]) == ["tower.bias", "head_a.weight"]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]


def test_an_unmatched_pattern_is_an_error():
    model = module()
    with pytest.raises(ValueError, match=r"trainable: pattern 'towr\.\*' matches no parameter"):
        set_trainable(model, ["head_*", "towr.*"])
    assert all(p.requires_grad for p in model.parameters()), "parameters are unchanged"
    with pytest.raises(ValueError, match=r"similar parameters are tower\.bias"):
        set_trainable(model, ["tower.bia"])


@pytest.mark.parametrize("setting", [{"lr_factors": {"Head_*": 2.0}}, {"no_decay": ("Head_*",)}])
def test_an_unmatched_optimiser_pattern_is_an_error(setting):
    config = OptimizerConfig(lr=0.1, **setting)
    (name,) = setting
    with pytest.raises(ValueError, match=rf"{name}: pattern 'Head_\*' matches no parameter"):
        build_optimizer(module(), config)


def test_patterns_may_match_only_frozen_parameters():
    model = module()
    set_trainable(model, ["tower.*"])
    config = OptimizerConfig(lr=0.1, lr_factors={"head_*": 2.0}, no_decay=("head_*",))
    assert len(build_optimizer(model, config).param_groups) == 1


def grouped(model, config):
    """Returns (lr, weight decay) by parameter path."""
    optimizer = build_optimizer(model, config)
    paths = {parameter: path for path, parameter in model.named_parameters()}
    return {
        paths[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_lr_and_weight_decay_of_groups():
    config = OptimizerConfig(
        lr=0.1,
        weight_decay=0.01,
        bias_lr_factor=2,
        lr_factors={"tower.*": 3.0, "*.weight": 5.0},
        no_decay=("head_*",),
    )
    result = grouped(module(), config)
    assert result["tower.weight"] == pytest.approx((0.1 * 15, 0.01))
    assert result["tower.bias"] == pytest.approx((0.1 * 6, 0.01))
    assert result["head_a.weight"] == pytest.approx((0.1 * 5, 0.0))


def test_grouping_of_parameters():
    model = module()
    assert len(build_optimizer(model, OptimizerConfig(lr=0.1)).param_groups) == 1
    set_trainable(model, ["head_*"])
    assert grouped(model, OptimizerConfig(lr=0.1)).keys() == {"head_a.weight"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_optimiser_classes(name, kind):
    optimizer = build_optimizer(module(), OptimizerConfig(name=name, lr=0.1, momentum=0.5))
    assert type(optimizer) is kind
    if name == "sgd":
        assert optimizer.param_groups[0]["momentum"] == 0.5


def test_set_learning_rate_applies_lr_factors():
    model = module()
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.1, bias_lr_factor=2))
    set_learning_rate(optimizer, 0.03)
    rates = {len(group["params"]): group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({2: 0.03, 1: 0.06})
