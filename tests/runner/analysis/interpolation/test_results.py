"""Interpolated tensors, coefficients and averages, without a run."""

from __future__ import annotations

import math

import pytest
import torch

from models.learner import LearnerState
from runner.analysis.interpolation.evaluate import interpolated_state, parse_alphas
from runner.analysis.interpolation.results import averages, choose


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_only_network_tensors_are_interpolated(alpha: float) -> None:
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    old = LearnerState(
        {
            "network.weight": some(3, 2),
            "network.head": some(2, 4),
            "network.num_batches": torch.tensor(7),
            "network.gone": some(2),
            "textual.prompts": some(5, 2),
        },
        {"offset": 1},
    )
    new = LearnerState(
        {
            "network.weight": some(3, 2),
            "network.head": some(5, 4),
            "network.num_batches": torch.tensor(9),
            "network.added": some(2),
            "textual.prompts": some(4, 2),
            "memory.vectors": some(2, 2),
        },
        {"offset": 3},
    )
    interpolated = interpolated_state(old, new, alpha)
    assert interpolated.facts == {"offset": 3}
    assert interpolated.tensors.keys() == new.tensors.keys()
    for name in ("network.weight", "network.head"):
        for index, value in enumerate(new.tensors[name].flatten()):
            before = old.tensors[name].flatten()
            expected = (
                value if index >= len(before) else alpha * value + (1 - alpha) * before[index]
            )
            assert interpolated.tensors[name].flatten()[index] == pytest.approx(
                float(expected), abs=1e-6
            )
    for name in ("network.num_batches", "network.added", "textual.prompts", "memory.vectors"):
        assert torch.equal(interpolated.tensors[name], new.tensors[name])


def test_learner_without_network_is_rejected() -> None:
    state = LearnerState({"backbone.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="checkpoint without them"):
        interpolated_state(state, state, 0.5)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("0.1:0.9:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0.2:0.55:0.1", [0, 0.2, 0.3, 0.4, 0.5, 1]),
        ("0:0.9:0.30000000001", [0, 0.30000000001, 0.60000000002, 0.9, 1]),
        ("0.5:0.5:0.1", [0, 0.5, 1]),
        ("0.7, 0.25,0.7", [0, 0.25, 0.7, 1]),
        ("0.6", [0, 0.6, 1]),
        ("1", [0, 1]),
    ],
)
def test_parse_alphas(text: str, shares: list[float]) -> None:
    assert list(parse_alphas(text)) == shares


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "half", "0.1:0.9", "0.1:0.9:0.1:2", "0.9:0.1:0.1", "0.1:0.9:0", "0.1:0.9:-0.1"),
        *("1.5", "-0.1", "nan", "inf", "0:1:0.0001", "0:2:0.5", "0.1;0.9", "0.1:0.9:x"),
    ],
)
def test_invalid_alphas_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"--alphas: expected start:stop:step such as 0.1:0.9:0.1"):
        parse_alphas(text)


def test_choice_uses_only_validation_scores() -> None:
    assert choose({0.0: 10.0, 0.5: 30.0, 1.0: 20.0}) == 0.5
    assert choose({0.0: 30.0, 0.5: 30.0, 1.0: 20.0}) == 0.5
    assert choose({0.0: 30.0, 0.5: None, 1.0: 20.0}) is None
    assert choose({}) is None


def test_averages() -> None:
    scores = {
        "a": {"mAP": 10.0, "R1": 1.0},
        "b": {"mAP": 30.0, "R1": 3.0},
        "c": {"mAP": 80.0, "R1": math.nan},
        "u": {"mAP": 5.0, "R1": 6.0},
    }
    actual = averages(scores, ["a", "b", "c"], ["u", "tests-alone"])
    assert actual["seen_mAP"] == 40
    assert actual["old_mAP"] == 20
    assert (actual["new_mAP"], actual["new_R1"]) == (80, None)
    assert (actual["seen_R1"], actual["old_R1"]) == (None, 2)
    assert actual["unseen_mAP"] == 5
    assert averages(scores, ["a", "lost"], [])["seen_mAP"] is None
    assert averages(scores, ["a", "lost"], [])["unseen_mAP"] is None
