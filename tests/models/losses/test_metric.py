import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.metric import batch_hard_triplet


def naive(features, person_ids, margin):
    rows, ids = features.tolist(), person_ids.tolist()
    losses = []
    for i in range(len(ids)):
        positives = [
            math.dist(rows[i], rows[j]) for j in range(len(ids)) if j != i if ids[j] == ids[i]
        ]
        negatives = [math.dist(rows[i], rows[j]) for j in range(len(ids)) if ids[j] != ids[i]]
        if positives and negatives:
            x = max(positives) - min(negatives)
            losses.append(math.log1p(math.exp(x)) if margin is None else max(0.0, x + margin))
    return sum(losses) / len(losses) if losses else 0.0


@settings(deadline=None, max_examples=30)
@given(
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    seed=st.integers(0, 1000),
    margin=st.sampled_from([None, 0.0, 0.3]),
)
def test_equals_the_naive_loop(ids, seed, margin):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(ids), 5, generator=generator, dtype=torch.float64)
    features.requires_grad_()
    person_ids = torch.tensor(ids)
    loss = batch_hard_triplet(features, person_ids, margin)
    assert loss.item() == pytest.approx(naive(features.detach(), person_ids, margin), abs=1e-10)
    loss.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("ids", [[0], [0, 0, 0], [0, 1, 2]])
@pytest.mark.parametrize("margin", [None, 0.3])
def test_without_a_whole_triplet_the_loss_and_its_gradient_are_zero(ids, margin):
    features = torch.randn(len(ids), 4, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor(ids), margin)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("margin", [None, 0.3])
def test_gradient(margin):
    features = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
    assert torch.autograd.gradcheck(
        lambda x: batch_hard_triplet(x, ids, margin), features.requires_grad_()
    )


def test_coincident_images_have_finite_gradients():
    features = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), None).backward()
    assert features.grad.isfinite().all()


def test_near_neighbours_far_from_the_origin_keep_their_distances():
    features = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03], [1000.0, 0.05]])
    ids = torch.tensor([0, 0, 1, 1])
    loss = batch_hard_triplet(features, ids, 1.0).item()
    assert loss == pytest.approx(naive(features, ids, 1.0), abs=1e-6)
