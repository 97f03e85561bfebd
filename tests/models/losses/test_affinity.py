import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.affinity import rectified_affinity
from models.losses.alignment import affinity

IDS = (0, 0, 0, 1, 1, 2, 2, 3)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rows_of(features, temperature):
    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    rows = []
    for a in features:
        powers = [math.exp(cosine(a, b) / temperature) for b in features]
        rows.append([power / sum(powers) for power in powers])
    return rows


def is_right(row, ids, i, j):
    if i == j:
        return True
    if ids[i] == ids[j]:
        return all(row[j] > row[k] for k in range(len(ids)) if ids[k] != ids[i])
    return all(row[j] <= row[k] for k in range(len(ids)) if ids[k] == ids[i] and k != i)


def naive_target(new, old, ids):
    """Also says which of the four cases each entry is."""
    target, cases = [], []
    for i in range(len(ids)):
        strangers = [k for k in range(len(ids)) if ids[k] != ids[i]]
        own = [k for k in range(len(ids)) if ids[k] == ids[i] and k != i]
        row = []
        for j in range(len(ids)):
            if is_right(old[i], ids, i, j):
                row.append(old[i][j])
                cases.append("old")
            elif is_right(new[i], ids, i, j):
                row.append(new[i][j])
                cases.append("new")
            elif ids[i] == ids[j]:
                row.append(max(each[i][k] for each in (new, old) for k in strangers))
                cases.append("raised")
            else:
                row.append(min(each[i][k] for each in (new, old) for k in own))
                cases.append("lowered")
        target.append([value / sum(row) for value in row])
    return target, cases


def divergence(target, rows):
    return sum(
        t * math.log(t / a)
        for wanted, row in zip(target, rows, strict=True)
        for t, a in zip(wanted, row, strict=True)
    ) / len(rows)


def naive(new, old, ids, temperature):
    new, old = rows_of(new, temperature), rows_of(old, temperature)
    return divergence(naive_target(new, old, ids)[0], new)


@settings(max_examples=50)
@given(
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.1, 0.5]),
)
def test_equals_loops(ids, seed, temperature):
    new, old = draw(len(ids), 4, seed=seed), draw(len(ids), 5, seed=seed + 1)
    loss = rectified_affinity(new, old, torch.tensor(ids), temperature, True)
    assert loss.item() == pytest.approx(naive(new, old, ids, temperature), rel=1e-8, abs=1e-10)


def test_the_drawn_batches_hold_all_four_cases():
    new, old = rows_of(draw(8, 4), 0.5), rows_of(draw(8, 4, seed=1), 0.5)
    assert set(naive_target(new, old, IDS)[1]) == {"old", "new", "raised", "lowered"}


def test_where_the_old_model_is_right_it_is_plain_affinity():
    """People far apart: nothing to rectify, whatever the new model thinks."""
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    old = torch.eye(6, dtype=torch.float64)[ids] + 0.1 * draw(6, 6)
    new = draw(6, 6, seed=1)
    plain = affinity(new[:, None], old[:, None], 0.1, "mean")
    assert rectified_affinity(new, old, ids, 0.1, True).item() == pytest.approx(plain.item())


def test_an_old_model_that_confuses_people_is_not_followed():
    """Two people are one to the old model; the new one tells them apart, and is right."""
    ids = torch.tensor([0, 0, 1, 1])
    new = torch.eye(4, dtype=torch.float64)[ids] + 0.1 * draw(4, 4)
    old = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 0, 1])] + 0.1 * draw(4, 4, seed=1)
    plain = affinity(new[:, None], old[:, None], 0.1, "mean")
    assert plain > 1
    assert rectified_affinity(new, old, ids, 0.1, True) < plain / 2


@pytest.mark.parametrize("through", [True, False])
def test_gradients(through):
    old, ids = draw(8, 4, seed=1), torch.tensor(IDS)
    new, teacher = draw(8, 4).requires_grad_(), old.requires_grad_()
    rectified_affinity(new, teacher, ids, 0.5, through).backward()
    assert teacher.grad is None
    assert new.grad is not None
    # Central differences of the loss itself, or of the loss towards a target that stands still.
    fixed, _ = naive_target(rows_of(new.detach(), 0.5), rows_of(old.detach(), 0.5), IDS)

    def loss_at(features):
        rows = rows_of(features, 0.5)
        moving = naive_target(rows, rows_of(old.detach(), 0.5), IDS)[0]
        return divergence(moving if through else fixed, rows)

    for place in ((0, 0), (3, 2), (7, 1)):
        step = torch.zeros(8, 4, dtype=torch.float64)
        step[place] = 1e-6
        wanted = (loss_at(new.detach() + step) - loss_at(new.detach() - step)) / 2e-6
        assert new.grad[place].item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.001])
@pytest.mark.parametrize("ids", [(0,), (0, 0, 0, 0), (0, 1, 2, 3), IDS])
def test_every_batch_and_temperature_gives_finite_gradients(ids, temperature, through):
    new = draw(len(ids), 4).float().requires_grad_()
    loss = rectified_affinity(
        new, draw(len(ids), 4, seed=1).float(), torch.tensor(ids), temperature, through
    )
    loss.backward()
    assert new.grad is not None
    assert loss.isfinite()
    assert new.grad.isfinite().all()
    if len(ids) == 1:
        assert loss.item() == 0
        assert not new.grad.any()


def test_a_student_that_is_still_its_teacher_has_a_gradient_that_rounding_does_not_decide():
    old, ids = draw(16, 8), torch.arange(4).repeat_interleave(4)

    def gradient(seed):
        new = (old + 1e-10 * draw(16, 8, seed=seed)).requires_grad_()
        return torch.autograd.grad(rectified_affinity(new, old, ids, 0.1, False), new)[0]

    assert gradient(1).norm() > 0
    assert (gradient(1) - gradient(2)).norm() < 1e-7 * gradient(1).norm()
