import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import decoupling

KERNELS = ["linear", "rbf"]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(row):
    norm = math.sqrt(sum(x * x for x in row))
    return [x / norm for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_adversarial(clothing, text, positives, temperature, floor=0.0):
    losses = []
    for image, row in zip(clothing.tolist(), positives.tolist(), strict=True):
        if not any(row) or all(row):
            continue
        exps = [math.exp(dot(unit(image), unit(other)) / temperature) for other in text.tolist()]
        own = sum(e for e, positive in zip(exps, row, strict=True) if positive)
        losses.append(-math.log(max(1 - own / sum(exps), floor)))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_adversarial_matching_equals_the_naive_loop(temperature):
    clothing, text = draw(6, 4), draw(6, 4, seed=1)
    several = draw(6, 6, seed=2) > 0.3
    several[2], several[4] = False, True
    for positives in (torch.eye(6).bool(), several):
        loss = decoupling.adversarial_matching(clothing, text, positives, temperature)
        wanted = naive_adversarial(clothing, text, positives, temperature)
        assert loss.item() == pytest.approx(wanted, rel=1e-9)


def test_the_floor_caps_the_loss():
    text = draw(5, 4)
    pairs = torch.eye(5).bool()
    free = decoupling.adversarial_matching(text, text, pairs, 0.05)
    capped = decoupling.adversarial_matching(text, text, pairs, 0.05, floor=0.01)
    wanted = naive_adversarial(text, text, pairs, 0.05, floor=0.01)
    assert capped.item() == pytest.approx(wanted, rel=1e-9)
    assert capped < free
    assert capped <= -math.log(0.01) + 1e-9


def test_a_certain_match_costs_no_more_than_its_cosines_and_keeps_its_gradient():
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    clothing = (text + 1e-3 * torch.tensor([[0.0, 1.0], [0.0, 1.0]])).requires_grad_()
    loss = decoupling.adversarial_matching(clothing, text, torch.eye(2).bool(), 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(200, rel=1e-3)  # 1 - P is exp(-200): 0 in float32
    assert clothing.grad.isfinite().all()
    assert clothing.grad.abs().max() > 0


def test_descending_hides_the_own_text():
    clothing, text = draw(4, 6).requires_grad_(), draw(4, 6, seed=1)
    pairs = torch.eye(4).bool()
    optimizer = torch.optim.SGD([clothing], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        decoupling.adversarial_matching(clothing, text, pairs, 0.1).backward()
        optimizer.step()
    cosines = torch.nn.functional.cosine_similarity(clothing[:, None], text[None], dim=-1)
    assert (cosines.diagonal() < cosines.masked_fill(pairs, -2).amax(1)).all()


def test_nothing_to_match_costs_nothing():
    for positives in (torch.ones(1, 1), torch.zeros(3, 3), torch.ones(3, 3)):
        size = len(positives)
        clothing = draw(size, 4).requires_grad_()
        loss = decoupling.adversarial_matching(clothing, draw(size, 4), positives.bool(), 0.07)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(clothing.grad, torch.zeros_like(clothing))


def naive_hsic(first, second, kernel, bandwidth=None, normalise=True):
    def kernel_matrix(rows):
        rows = [unit(row) if normalise else row for row in rows.tolist()]
        if kernel == "linear":
            return [[dot(a, b) for b in rows] for a in rows]
        apart = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
        pairs = sorted(apart[i][j] for i in range(len(rows)) for j in range(i))
        variance = bandwidth**2 if bandwidth else pairs[(len(pairs) - 1) // 2]
        return [[math.exp(-square / (2 * variance)) for square in row] for row in apart]

    num = len(first)
    centre = torch.eye(num, dtype=torch.float64) - 1 / num
    left, right = (
        torch.tensor(kernel_matrix(rows), dtype=torch.float64) for rows in (first, second)
    )
    return float(torch.trace(left @ centre @ right @ centre)) / (num - 1) ** 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_images", [2, 3, 7])
@pytest.mark.parametrize("bandwidth", [None, 0.4])
@pytest.mark.parametrize("normalise", [True, False])
def test_hsic_equals_the_formula(kernel, num_images, bandwidth, normalise):
    first, second = draw(num_images, 4) + 2, draw(num_images, 3, seed=1)
    loss = decoupling.hsic(first, second, kernel, bandwidth, normalise)
    wanted = naive_hsic(first, second, kernel, bandwidth, normalise)
    assert loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_lengths_of_rows_count_only_in_raw_features(kernel):
    first, second = draw(9, 4), draw(9, 3, seed=1)
    lengths = draw(9, 1, seed=2).exp()
    for measure in (decoupling.hsic, decoupling.cka):
        before, after = (measure(rows, second, kernel) for rows in (first, first * lengths))
        assert after.item() == pytest.approx(before.item(), rel=1e-9)
        before, after = (
            measure(rows, second, kernel, normalise=False) for rows in (first, first * lengths)
        )
        assert after.item() != pytest.approx(before.item(), rel=1e-2)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from(KERNELS))
def test_laws_of_raw_features(num_images, seed, kernel):
    """Translations and rotations change nothing; a scale c changes only linear HSIC, by c^2."""
    first, second = draw(num_images, 4, seed=seed), draw(num_images, 3, seed=seed + 1)
    turn = torch.linalg.qr(draw(4, 4, seed=seed + 2)).Q
    moved = 3 * (first @ turn) + 100 * draw(1, 4, seed=seed + 3)
    factor = 9 if kernel == "linear" else 1
    for measure, expected in ((decoupling.hsic, factor), (decoupling.cka, 1)):
        before, after = (measure(rows, second, kernel, None, False) for rows in (first, moved))
        assert after.item() == pytest.approx(expected * before.item(), rel=1e-6, abs=1e-9)
    spreads = [naive_hsic(rows, rows, kernel, None, False) for rows in (first, second)]
    wanted = naive_hsic(first, second, kernel, None, False) / math.sqrt(spreads[0] * spreads[1])
    alignment = decoupling.cka(first, second, kernel, None, False)
    assert alignment.item() == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_raw_features_far_from_the_origin_keep_their_precision():
    first, second = draw(8, 4).float(), draw(8, 4, seed=1).float()
    for kernel in KERNELS:
        near = decoupling.hsic(first, second, kernel, normalise=False)
        far = decoupling.hsic(first + 1000, second - 1000, kernel, normalise=False)
        assert far.item() == pytest.approx(near.item(), rel=1e-3)


def test_linear_hsic_is_the_squared_cross_covariance():
    first, second = draw(8, 4), draw(8, 3, seed=1)
    rows = [torch.nn.functional.normalize(rows, dim=1) for rows in (first, second)]
    covariance = (rows[0] - rows[0].mean(0)).T @ (rows[1] - rows[1].mean(0)) / 7
    loss = decoupling.hsic(first, second, "linear")
    assert loss.item() == pytest.approx(covariance.square().sum().item(), rel=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_feature_depends_on_nothing(kernel):
    constant = torch.ones(6, 3).mul(0.7).requires_grad_()
    loss = decoupling.hsic(draw(6, 4).float(), constant, kernel)
    loss.backward()
    assert abs(loss.item()) < 1e-7
    assert constant.grad.isfinite().all()


def test_only_rbf_sees_a_dependence_without_correlation():
    angles = torch.linspace(0, 2 * math.pi, 41, dtype=torch.float64)[:-1]
    first = torch.stack([angles.cos(), angles.sin()], 1)
    second = torch.stack([(2 * angles).cos(), (2 * angles).sin()], 1)
    unrelated = second[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert decoupling.hsic(first, second, "linear") < 1e-12
    related = decoupling.hsic(first, second, "rbf", 0.3)
    assert related > 1.3 * decoupling.hsic(first, unrelated, "rbf", 0.3)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from(KERNELS))
def test_laws_of_hsic(num_images, seed, kernel):
    first, second = draw(num_images, 4, seed=seed), draw(num_images, 3, seed=seed + 1)
    loss = decoupling.hsic(first, second, kernel)
    assert loss >= -1e-12
    assert loss.item() == pytest.approx(decoupling.hsic(second, first, kernel).item(), abs=1e-12)
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    turn = torch.linalg.qr(draw(4, 4, seed=seed + 2)).Q
    lengths = draw(num_images, 1, seed=seed + 3).exp()
    same = decoupling.hsic((first @ turn * lengths)[order], second[order], kernel)
    assert loss.item() == pytest.approx(same.item(), rel=1e-8, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from(KERNELS))
def test_laws_of_cka(num_images, seed, kernel):
    first, second = draw(num_images, 4, seed=seed), draw(num_images, 3, seed=seed + 1)
    alignment = decoupling.cka(first, second, kernel)
    spreads = [naive_hsic(rows, rows, kernel) for rows in (first, second)]
    wanted = naive_hsic(first, second, kernel) / math.sqrt(spreads[0] * spreads[1])
    assert alignment.item() == pytest.approx(wanted, rel=1e-7, abs=1e-9)
    assert -1e-9 <= alignment <= 1 + 1e-9
    assert decoupling.cka(first, first, kernel).item() == pytest.approx(1)


def test_moving_rows_together_lowers_hsic_and_not_cka():
    first, second = draw(8, 4), draw(8, 4, seed=1) * 0.5 + draw(8, 4)
    apart = [measure(first, second, "linear") for measure in (decoupling.hsic, decoupling.cka)]
    centre = torch.full((4,), 50.0, dtype=torch.float64)
    drawn = [first + centre, second + centre]
    together = [measure(*drawn, "linear") for measure in (decoupling.hsic, decoupling.cka)]
    assert together[0] < 1e-4 * apart[0]
    assert together[1] > 0.3 * apart[1]


@pytest.mark.parametrize("measure", [decoupling.hsic, decoupling.cka])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalise", [True, False])
def test_one_image_costs_nothing(kernel, measure, normalise):
    first = draw(1, 4).requires_grad_()
    loss = measure(first, draw(1, 3), kernel, None, normalise)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert first.grad.abs().max() < 1e-12


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.0, 1e-20, 1.0, 1e15]))
def test_values_and_gradients_are_finite_at_extremes(num_images, seed, scale):
    first = (draw(num_images, 4, seed=seed).float() * scale).requires_grad_()
    second = draw(num_images, 4, seed=seed + 1).float().requires_grad_()
    second.data[0] = first.data[0]
    gate = torch.tensor([[0.0, 1.0]]).requires_grad_()
    pairs = torch.eye(num_images).bool()
    loss = decoupling.adversarial_matching(first, second, pairs, 0.005, 1e-6)
    loss = loss + decoupling.adversarial_matching(first, second, pairs, 0.005)
    for kernel in KERNELS:
        loss = loss + decoupling.hsic(first, second, kernel)
        loss = loss + decoupling.cka(first, second, kernel)
    loss = loss + decoupling.gate_balance(gate)
    loss.backward()
    for tensor in (loss, first.grad, second.grad, gate.grad):
        assert tensor.isfinite().all()


def test_gate_balance():
    gate = torch.tensor([[0.5, 1.0], [0.25, 0.5]])
    assert decoupling.gate_balance(gate).item() == pytest.approx((0.25 + 0.0625) / 4)
    assert decoupling.gate_balance(torch.full((3, 2), 0.5)).item() == 0


def test_gradients():
    first, second = draw(4, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    pairs = torch.eye(4).bool()
    for loss in (
        lambda a, b: decoupling.adversarial_matching(a, b, pairs, 0.3),
        lambda a, b: decoupling.hsic(a, b, "linear"),
        lambda a, b: decoupling.hsic(a, b, "rbf", 0.5),
        lambda a, b: decoupling.hsic(a, b, "linear", None, False),
        lambda a, b: decoupling.cka(a, b, "rbf", 0.5, False),
    ):
        assert torch.autograd.gradcheck(loss, (first, second))
