"""The Jensen-Shannon divergence of two classifiers, against sums over classes."""

from __future__ import annotations

import math

import pytest
import torch

from models.losses.distillation import jensen_shannon


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_jensen_shannon_equals_the_sum_over_classes(mixture, temperature):
    first = 3 * torch.randn(4, 5, generator=generator(), dtype=torch.float64)
    second = 3 * torch.randn(4, 5, generator=generator(1), dtype=torch.float64)

    def softmax(logits):
        powers = [math.exp(logit) for logit in logits]
        return [power / sum(powers) for power in powers]

    total = 0.0
    rows, others = (first / temperature).tolist(), (second / temperature).tolist()
    for row, other in zip(rows, others, strict=True):
        p, q = softmax(row), softmax(other)
        if mixture == "probabilities":
            middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        else:
            middle = softmax([(a + b) / 2 for a, b in zip(row, other, strict=True)])
        for each in (p, q):
            total += sum(a * math.log(a / m) for a, m in zip(each, middle, strict=True)) / 2 / 4
    found = jensen_shannon(first, second, temperature, mixture).item()
    assert found == pytest.approx(temperature**2 * total, rel=1e-9)
    assert jensen_shannon(second, first, temperature, mixture).item() == pytest.approx(found)
    if mixture == "probabilities":
        assert found <= temperature**2 * math.log(2)


@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
def test_one_divergence_sends_each_model_the_gradient_of_its_own(mixture):
    first = torch.randn(4, 5, generator=generator()).requires_grad_()
    second = torch.randn(4, 5, generator=generator(1)).requires_grad_()
    jensen_shannon(first, second, 2.0, mixture).backward()
    for mine, other in ((first, second), (second, first)):
        alone = mine.detach().clone().requires_grad_()
        jensen_shannon(alone, other.detach(), 2.0, mixture).backward()
        assert torch.allclose(mine.grad, alone.grad, atol=1e-7)
        assert mine.grad.abs().max() > 0
