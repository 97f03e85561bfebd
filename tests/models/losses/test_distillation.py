import math

import pytest
import torch

from models.losses.distillation import distillation, jensen_shannon


def draw(*shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax(logits):
    powers = [math.exp(x) for x in logits]
    return [power / sum(powers) for power in powers]


def kl(wanted, given):
    return sum(p * math.log(p / q) for p, q in zip(wanted, given, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distillation_equals_the_sum_over_classes(temperature):
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    total = 0.0
    for b in range(4):
        old = softmax([x / temperature for x in teacher[b].tolist()])
        new = softmax([x / temperature for x in student[b].tolist()])
        total += temperature**2 * kl(old, new) / 4
    loss = distillation(student, teacher, temperature).item()
    assert loss == pytest.approx(total, rel=1e-9)
    assert distillation(teacher, student, temperature).item() != pytest.approx(loss, rel=1e-3)


def test_distillation_has_the_gradient_of_the_softened_cross_entropy():
    student, teacher = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_()
    distillation(student, teacher, 2.0).backward()
    assert teacher.grad is None
    found, student.grad = student.grad, None
    wanted = torch.zeros((), dtype=torch.float64)
    for b in range(4):
        old = softmax([x / 2 for x in teacher[b].tolist()])
        new = (student[b] / 2).log_softmax(0)
        wanted = wanted - sum(p * q for p, q in zip(old, new, strict=True)) / 4
    (4 * wanted).backward()
    assert torch.allclose(found, student.grad, atol=1e-12)


def test_distillation_ignores_what_is_added_to_all_old_classes_of_an_image():
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    loss = distillation(student, teacher, 2.0)
    shifted = distillation(student + draw(4, 1, seed=2), teacher, 2.0)
    assert shifted.item() == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_jensen_shannon_equals_the_sum_over_classes(mixture, temperature):
    first, second = draw(4, 5), draw(4, 5, seed=1)
    total = 0.0
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        p, q = softmax([x / temperature for x in a]), softmax([x / temperature for x in b])
        if mixture == "probabilities":
            middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        else:
            middle = softmax([(x + y) / 2 / temperature for x, y in zip(a, b, strict=True)])
        total += temperature**2 * (kl(p, middle) + kl(q, middle)) / 2 / 4
    for pair in ((first, second), (second, first)):
        loss = jensen_shannon(*pair, temperature, mixture)
        assert loss.item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("loss", [distillation, jensen_shannon])
def test_equal_predictions_have_zero_loss(loss):
    logits = draw(4, 5).requires_grad_()
    value = loss(logits, logits.detach() + 7, 2.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [distillation, jensen_shannon])
def test_one_class_costs_nothing(loss):
    student = draw(3, 1).requires_grad_()
    value = loss(student, draw(3, 1, seed=1), 2.0)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("loss", [distillation, jensen_shannon])
def test_confident_predictions_have_finite_loss(loss):
    sure, otherwise = torch.tensor([[900.0, 0.0]]).requires_grad_(), torch.tensor([[0.0, 900.0]])
    value = loss(sure, otherwise, 1.0)
    value.backward()
    assert value.isfinite()
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize("loss", [distillation, jensen_shannon])
def test_half_precision_logits_give_a_float32_loss(loss):
    assert loss(torch.randn(4, 3).bfloat16(), torch.randn(4, 3).bfloat16(), 2.0).dtype == (
        torch.float32
    )
