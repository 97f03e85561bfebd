import math

import pytest
import torch

from models.losses.identity import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_sum_over_classes(smoothing):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.tensor([0, 6, 3, 3, 1])
    total = 0.0
    for row, person in zip(logits.tolist(), ids.tolist(), strict=True):
        log_norm = math.log(sum(math.exp(x) for x in row))
        for c, x in enumerate(row):
            q = smoothing / 7 + (1 - smoothing) * (c == person)
            total -= q * (x - log_norm)
    assert cross_entropy(logits, ids, smoothing).item() == pytest.approx(total / 5, abs=1e-12)


def test_one_class_costs_nothing():
    assert cross_entropy(torch.randn(3, 1), torch.zeros(3, dtype=torch.long), 0.1).item() == 0.0


def test_half_precision_logits_give_a_float32_loss():
    logits = torch.randn(4, 3).bfloat16()
    assert cross_entropy(logits, torch.tensor([0, 1, 2, 0])).dtype == torch.float32
