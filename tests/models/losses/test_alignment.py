import math

import pytest
import torch
from torch.nn import functional

from models.losses import alignment
from models.losses.contrastive import symmetric_contrastive


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def softmax(logits):
    powers = [math.exp(x) for x in logits]
    return [power / sum(powers) for power in powers]


def kl(old, new, floor=0.0):
    return sum(p * (math.log(p) - math.log(max(q, floor))) for p, q in zip(old, new, strict=True))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("captions", ["none", "parts", "whole"])
def test_contrastive_attribute_alignment(reduction, captions):
    v, t = draw(4, 3, 5), draw(4, 3, 5, seed=1)
    ids = {
        "none": None,
        "parts": torch.tensor([[0, 1, 2], [0, 3, 4], [5, 1, 4], [6, 7, 8]]),
        "whole": torch.tensor([0, 1, 0, 2]),
    }[captions]
    loss = alignment.attribute_alignment(v, t, ids, "contrastive", 0.2, reduction)
    total = 0.0
    for k in range(3):
        row = torch.arange(4) if ids is None else ids if ids.ndim == 1 else ids[:, k]
        mask = row[:, None] == row[None, :]
        total += symmetric_contrastive(v[:, k], t[:, k], mask, 0.2).item()
    assert loss.item() == pytest.approx(total / (3 if reduction == "mean" else 1), rel=1e-9)


def test_cosine_attribute_alignment():
    v, t = draw(4, 3, 5), draw(4, 3, 5, seed=1)
    wanted = sum(1 - cosine(v[b, k], t[b, k]) for b in range(4) for k in range(3)) / 4
    loss = alignment.attribute_alignment(v, t, None, "cosine", 1.0, "sum")
    assert loss.item() == pytest.approx(wanted, rel=1e-9)
    assert alignment.attribute_alignment(v, v, None, "cosine", 1.0, "sum").item() < 1e-12


@pytest.mark.parametrize("distance", ["cosine", "contrastive"])
def test_prototype_pull(distance):
    v, prototypes = draw(4, 3, 5), draw(2, 3, 5, seed=1)
    total = 0.0
    for b in range(4):
        for d in range(2):
            for k in range(3):
                if distance == "cosine":
                    total += 1 - cosine(v[b, k], prototypes[d, k])
                else:
                    shares = softmax([cosine(v[b, k], p) / 0.3 for p in prototypes[d]])
                    total -= math.log(shares[k])
    loss = alignment.prototype_pull(v, prototypes, distance, 0.3, "sum")
    assert loss.item() == pytest.approx(total / 8, rel=1e-9)
    mean = alignment.prototype_pull(v, prototypes, distance, 0.3, "mean")
    assert mean.item() == pytest.approx(total / 24, rel=1e-9)


def test_prototype_pull_with_one_attribute_has_no_negatives():
    v = draw(4, 1, 5)
    loss = alignment.prototype_pull(v, draw(2, 1, 5, seed=1), "contrastive", 0.3, "sum")
    assert loss.item() == 0


def test_prototype_relation_compares_with_the_prototypes_of_all_attributes():
    new, old, prototypes = draw(4, 3, 5), draw(4, 3, 5, seed=1), draw(2, 3, 5, seed=2)
    anchors = [prototypes[d, k] for d in range(2) for k in range(3)]
    total = 0.0
    for b in range(4):
        for k in range(3):
            shares_old = softmax([cosine(old[b, k], p) / 0.2 for p in anchors])
            shares_new = softmax([cosine(new[b, k], p) / 0.2 for p in anchors])
            total += kl(shares_old, shares_new) / 4
    loss = alignment.prototype_relation(new, old, prototypes, 0.2, "sum")
    assert loss.item() == pytest.approx(total, rel=1e-9)


def test_prototype_relation_says_something_with_one_old_domain():
    loss = alignment.prototype_relation(
        draw(4, 3, 5), draw(4, 3, 5, seed=1), draw(1, 3, 5, seed=2), 0.2, "mean"
    )
    assert loss.item() > 0


def test_per_attribute_prototype_relation():
    new, old, prototypes = draw(4, 3, 5), draw(4, 3, 5, seed=1), draw(6, 3, 5, seed=2)
    total = 0.0
    for b in range(4):
        for k in range(3):
            shares_old = softmax([cosine(old[b, k], p[k]) / 0.2 for p in prototypes])
            shares_new = softmax([cosine(new[b, k], p[k]) / 0.2 for p in prototypes])
            total += kl(shares_old, shares_new) / 4
    loss = alignment.per_attribute_prototype_relation(new, old, prototypes, 0.2, "mean")
    assert loss.item() == pytest.approx(total / 3, rel=1e-9)


@pytest.mark.parametrize("keep_diagonal", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_affinity(keep_diagonal, floor):
    new, old = draw(5, 3, 4), draw(5, 3, 4, seed=1)
    total = 0.0
    for k in range(3):
        for b in range(5):
            others = [c for c in range(5) if keep_diagonal or c != b]
            shares_old = softmax([cosine(old[b, k], old[c, k]) / 0.3 for c in others])
            shares_new = softmax([cosine(new[b, k], new[c, k]) / 0.3 for c in others])
            total += kl(shares_old, shares_new, floor) / 5
    loss = alignment.affinity(new, old, 0.3, "sum", keep_diagonal, floor)
    assert loss.item() == pytest.approx(max(total, 0.0), rel=1e-9)


def test_affinity_at_the_temperature_of_the_authors_is_finite():
    new = functional.normalize(draw(16, 4, 8).float(), dim=-1).requires_grad_()
    old = functional.normalize(draw(16, 4, 8, seed=1).float(), dim=-1)
    for floor in (0.0, 1e-8):
        loss = alignment.affinity(new, old, 0.005, "sum", False, floor)
        (gradient,) = torch.autograd.grad(loss, new)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def relations(new, old):
    return {
        "pull": alignment.prototype_pull(new, old[:1], "cosine", 1.0, "sum"),
        "relation": alignment.prototype_relation(new, old, old[:2], 0.1, "sum"),
        "identity": alignment.per_attribute_prototype_relation(new, old, old, 0.1, "sum"),
        "affinity": alignment.affinity(new, old, 0.1, "sum"),
        "no diagonal": alignment.affinity(new, old, 0.1, "sum", keep_diagonal=False),
    }


def test_the_same_features_are_at_distance_zero_and_the_target_has_no_gradient():
    new = draw(4, 3, 5).requires_grad_()
    old = new.detach().clone().requires_grad_()
    for name, loss in relations(new, old).items():
        if name != "pull":
            assert abs(loss.item()) < 1e-12, name
        gradients = torch.autograd.grad(loss, (new, old), allow_unused=True, retain_graph=True)
        assert gradients[0].isfinite().all(), name
        assert gradients[1] is None, name


@pytest.mark.parametrize("name", ["pull", "pull contrastive", "relation", "identity"])
def test_without_prototypes_the_loss_is_zero_with_a_gradient(name):
    v, nothing = draw(4, 3, 5).requires_grad_(), draw(0, 3, 5)
    old = draw(4, 3, 5, seed=1)
    loss = {
        "pull": lambda: alignment.prototype_pull(v, nothing, "cosine", 1.0, "sum"),
        "pull contrastive": lambda: alignment.prototype_pull(v, nothing, "contrastive", 1, "mean"),
        "relation": lambda: alignment.prototype_relation(v, old, nothing, 0.1, "sum"),
        "identity": lambda: alignment.per_attribute_prototype_relation(v, old, nothing, 0.1, "sum"),
    }[name]()
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(v.grad, torch.zeros_like(v))


def test_one_image_has_no_affinities():
    for keep_diagonal in (True, False):
        v = draw(1, 3, 5).requires_grad_()
        loss = alignment.affinity(v, draw(1, 3, 5, seed=1), 0.1, "sum", keep_diagonal)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(v.grad, torch.zeros_like(v))


def test_gradients():
    new, old = draw(3, 2, 4).requires_grad_(), draw(3, 2, 4, seed=1)
    for name in relations(new, old):
        assert torch.autograd.gradcheck(lambda x, name=name: relations(x, old)[name], new), name
