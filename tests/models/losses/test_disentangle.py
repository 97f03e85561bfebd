import pytest
import torch

from models.losses.disentangle import orthogonality


def test_equals_the_mean_over_ordered_pairs():
    t = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = []
    for sample in t:
        for k in range(4):
            for other in range(4):
                if k != other:
                    a, b = sample[k], sample[other]
                    values.append(float(a @ b / (a.norm() * b.norm())) ** 2)
    assert orthogonality(t).item() == pytest.approx(sum(values) / len(values), rel=1e-9)
    assert orthogonality(t[0]).item() == pytest.approx(sum(values[:12]) / 12, rel=1e-9)
    assert torch.autograd.gradcheck(orthogonality, t.requires_grad_())


def test_bounds():
    assert orthogonality(torch.eye(4)).item() == 0
    assert orthogonality(torch.ones(2, 4, 3)).item() == pytest.approx(1)


def test_one_attribute_costs_nothing():
    t = torch.randn(5, 1, 3, requires_grad=True)
    loss = orthogonality(t)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(t.grad, torch.zeros_like(t))
