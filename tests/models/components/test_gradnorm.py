import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from models.components.gradnorm import GradNorm, GradNormConfig, log_weight_gradient, training_rates
from models.learner import StepResult
from tests.models.learner_cases import CLASSIFYING

FIRST, SECOND = (3.0, 4.0), (0.0, 1.0)  # gradient norms 5 and 1


def alone(local):
    return local


def config(**values):
    return GradNormConfig(**({"enabled": True, "regularisation": 0.0} | values))


def linear_step(theta, slopes=(FIRST, SECOND), weights=None, values=None):
    """Losses value + slope * theta at theta = 0: constant gradients, chosen values."""
    values = values or [1.0] * len(slopes)
    names = [chr(ord("a") + k) for k in range(len(slopes))]
    terms = {
        name: value + torch.tensor(slope) @ theta
        for name, slope, value in zip(names, slopes, values, strict=True)
    }
    return StepResult.of(terms, weights or dict.fromkeys(names, 1.0))


@pytest.fixture
def theta():
    return nn.Parameter(torch.zeros(2))


def learned(balance, names=("a", "b")):
    weights = balance._weights([balance.names.index(name) for name in names])
    return dict(zip(names, weights.tolist(), strict=True))


@pytest.mark.parametrize("reference", ["first", "mean"])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("regularisation", [0.0, 1e-3])
def test_equal_rates_converge_to_equal_gradient_norms(theta, reference, swapped, regularisation):
    slopes = (SECOND, FIRST) if swapped else (FIRST, SECOND)
    balance = GradNorm(config(reference=reference, regularisation=regularisation), "ab")
    for _ in range(300):
        result = balance(linear_step(theta, slopes), [theta], alone)
    first, second = result.weights["a"], result.weights["b"]
    if swapped:
        first, second = second, first
    # w_a * 5 = w_b * 1 and w_a + w_b = 2
    assert first == pytest.approx(1 / 3, rel=0.08)
    assert second == pytest.approx(5 / 3, rel=0.02)


@pytest.mark.parametrize("reference", ["first", "mean"])
@pytest.mark.parametrize("slopes", [(FIRST, SECOND), (SECOND, FIRST)])
@pytest.mark.parametrize("loss", [0.5, 1.5])
def test_slow_task_gets_a_larger_gradient_norm(theta, reference, slopes, loss):
    balance = GradNorm(GradNormConfig(enabled=True, reference=reference, warm_iterations=1), "ab")
    balance(linear_step(theta, slopes), [theta], alone)
    for _ in range(300):
        result = balance(linear_step(theta, slopes, values=[loss, 1.0]), [theta], alone)
    pulls = [
        result.weights[name] * math.hypot(*slope) for name, slope in zip("ab", slopes, strict=True)
    ]
    rates = [2 * loss / (loss + 1), 2 / (loss + 1)]
    wanted = rates[0] / rates[1] if reference == "mean" else 1 / rates[1]
    assert pulls[0] / pulls[1] == pytest.approx(wanted, rel=0.1)


def test_configured_weights_scale_gradient_norms_of_balanced_terms_only(theta):
    balance = GradNorm(config(reference="mean"), "ab")
    weights = {"a": 0.2, "b": 1.0, "c": 7.0}
    for _ in range(60):
        step = linear_step(theta, (FIRST, SECOND, SECOND), weights)
        result = balance(step, [theta], alone)
    # 0.2 * 5 = 1 * 1: balanced as configured
    assert result.weights["a"] == pytest.approx(0.2, rel=0.06)
    assert result.weights["b"] == pytest.approx(1.0, rel=0.06)
    assert result.weights["c"] == 7.0
    total = sum(result.weights[name] * result.terms[name] for name in "abc")
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(0.0, 1e8), min_size=2, max_size=4),
    st.sampled_from(["first", "mean"]),
    st.sampled_from([0.025, 3.0]),
)
def test_weights_stay_bounded_and_sum_to_the_number_of_tasks(norms, reference, lr):
    theta = nn.Parameter(torch.zeros(2))
    names = "abcd"[: len(norms)]
    balance = GradNorm(config(reference=reference, lr=lr, warm_iterations=1), names)
    for _ in range(12):
        step = linear_step(theta, [(norm, 0.0) for norm in norms])
        weights = balance(step, [theta], alone).weights
        assert sum(weights.values()) == pytest.approx(len(norms), rel=1e-5)
        # Clipped to [1e-4, 10] before the rescaling.
        assert min(weights.values()) / max(weights.values()) >= 1e-5 * (1 - 1e-4)
        assert balance.log_weights.exp().sum() == pytest.approx(len(norms), rel=1e-5)


def test_constant_task_reaches_the_weight_bounds(theta):
    balance = GradNorm(config(reference="mean", lr=3.0), "ab")
    for _ in range(100):
        weights = balance(linear_step(theta, ((1e9, 0.0), SECOND)), [theta], alone).weights
    assert weights["a"] / weights["b"] < 1e-3
    assert all(math.isfinite(weight) and weight > 0 for weight in weights.values())


@pytest.mark.parametrize("reference", ["first", "mean"])
@pytest.mark.parametrize("asymmetry", [0.0, 1.0, 1.5])
def test_the_derivative_is_that_of_the_formula(reference, asymmetry):
    setting = config(reference=reference, asymmetry=asymmetry, alpha=0.7, regularisation=0.01)
    norms, rates = torch.tensor([2.0, 0.3, 1.0]), torch.tensor([0.5, 1.7, 0.8])
    log_weights = torch.tensor([0.4, -0.2, 0.1], requires_grad=True)
    weights = log_weights.exp()
    pulls = weights * norms
    wanted = torch.zeros(())
    for k in range(3):
        level = pulls[0] if reference == "first" else pulls.sum() / 3
        if k or reference == "mean":
            wanted = wanted + 0.7 * (pulls[k] - (rates[k] ** asymmetry * level).detach()).abs()
            wanted = wanted + 0.01 * log_weights[k] ** 2
    wanted.backward()
    found = log_weight_gradient(weights.detach(), norms, rates, setting)
    assert torch.allclose(found, log_weights.grad, atol=1e-6)


def test_regularisation_alone_returns_to_equal_weights(theta):
    balance = GradNorm(config(regularisation=1.0), "ab")
    balance.log_weights.copy_(torch.tensor([1.5, 0.5]).log())
    for _ in range(200):
        result = balance(linear_step(theta, ((0.0, 0.0), (0.0, 0.0))), [theta], alone)
    assert result.weights["a"] == pytest.approx(1.0, abs=0.03)


def test_training_rates():
    rates = training_rates(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
    assert rates.tolist() == pytest.approx([0.5, 1.5])
    assert training_rates(torch.zeros(2), torch.ones(2)).tolist() == [1, 1]
    tiny = training_rates(torch.tensor([1e-6, 1.0]), torch.tensor([0.0, 1.0]))
    assert tiny.tolist() == pytest.approx([1.0, 1.0])
    assert training_rates(torch.tensor([-1.0, 1.0]), torch.ones(2)).tolist() == [0, 2]


def test_balancing_does_not_change_the_step_inputs(theta):
    balance = GradNorm(config(), "ab")
    balance.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    result = balance(linear_step(theta), [theta], alone)
    assert theta.grad is None
    result.loss.backward()
    wanted = 0.5 * torch.tensor(FIRST) + 1.5 * torch.tensor(SECOND)
    assert torch.allclose(theta.grad, wanted)
    assert not list(balance.parameters())


def test_disabled_it_changes_nothing(theta):
    balance = GradNorm(GradNormConfig(), "ab")
    step = linear_step(theta)
    assert balance(step, [theta], alone) is step
    assert not balance.state_dict()
    GradNorm(GradNormConfig(), ["a"])


def test_without_gradients_weights_are_applied_but_not_updated(theta):
    balance = GradNorm(config(warm_iterations=1), "ab")
    balance.log_weights.copy_(torch.tensor([0.5, 1.5]).log())
    with torch.no_grad():
        result = balance(linear_step(theta), [theta], alone)
    assert result.weights["a"] == pytest.approx(0.5)
    assert not balance.num_warm.any()


def test_initial_losses_are_the_mean_of_the_warm_iterations_of_each_domain(theta):
    balance = GradNorm(config(warm_iterations=4), "ab")
    for value in (1.0, 2.0, 3.0, 6.0):
        result = balance(linear_step(theta, values=[value, 2 * value]), [theta], alone)
    assert result.weights == {"a": 1.0, "b": 1.0}
    assert balance.initial_losses.tolist() == pytest.approx([3.0, 6.0])
    balance(linear_step(theta, values=[9.0, 9.0]), [theta], alone)
    assert balance.initial_losses.tolist() == pytest.approx([3.0, 6.0])
    moved = learned(balance)
    assert moved["a"] != moved["b"]
    balance.begin_domain()
    assert not balance.initial_losses.any()
    balance(linear_step(theta, values=[8.0, 4.0]), [theta], alone)
    assert balance.initial_losses.tolist() == pytest.approx([2.0, 1.0])
    assert learned(balance) == moved


def test_weights_can_be_reset_at_each_domain(theta):
    balance = GradNorm(config(warm_iterations=1, reset_weights=True), "ab")
    for _ in range(5):
        balance(linear_step(theta), [theta], alone)
    assert learned(balance)["a"] != 1
    balance.begin_domain()
    assert all(not value.any() for value in balance.state_dict().values())


def test_absent_task_keeps_its_weight(theta):
    balance = GradNorm(config(warm_iterations=2), "cab")
    for _ in range(30):
        result = balance(linear_step(theta), [theta], alone)  # a and b
    assert sum(result.weights.values()) == pytest.approx(2)
    assert (balance.log_weights[0], balance.num_updates[0]) == (0, 0)
    slopes = (FIRST, SECOND, (1.0, 0.0))
    result = balance(linear_step(theta, slopes), [theta], alone)
    assert sum(result.weights.values()) == pytest.approx(3)
    one = StepResult.of({"a": theta.sum()}, {"a": 2.0})
    assert balance(one, [theta], alone) is one


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_iteration_is_skipped(theta, value):
    balance = GradNorm(config(warm_iterations=1), "ab")
    for _ in range(3):
        balance(linear_step(theta), [theta], alone)
    before = {name: tensor.clone() for name, tensor in balance.state_dict().items()}
    balance(linear_step(theta, values=[value, 1.0]), [theta], alone)
    balance(linear_step(theta, ((value, 0.0), SECOND)), [theta], alone)
    assert all(torch.equal(before[name], now) for name, now in balance.state_dict().items())


def test_terms_without_shared_parameters_have_zero_gradient_norm(theta):
    balance = GradNorm(config(warm_iterations=1), "abc")
    other = nn.Parameter(torch.ones(()))
    for _ in range(5):
        terms = {"a": 1 + theta.sum(), "b": other * 2, "c": torch.ones(())}
        result = balance(StepResult.of(terms, dict.fromkeys(terms, 1.0)), [theta], alone)
    assert sum(result.weights.values()) == pytest.approx(3)


def test_resuming_from_a_saved_state_is_exact(theta):
    balance = GradNorm(config(reference="mean"), "ab")
    values = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)).tolist()
    for pair in values[:25]:
        balance(linear_step(theta, values=pair), [theta], alone)
    resumed = GradNorm(config(reference="mean"), "ab")
    resumed.load_state_dict({k: v.clone() for k, v in balance.state_dict().items()})
    for pair in values[25:]:
        first = balance(linear_step(theta, values=pair), [theta], alone)
        second = resumed(linear_step(theta, values=pair), [theta], alone)
        assert first.weights == second.weights


class Workers:
    """Two workers in two threads; `gather` gives each what both sent, rank 0's first."""

    def __init__(self):
        self.barrier = threading.Barrier(2)
        self.sent = [None, None]

    def of(self, rank):
        def gather(local):
            self.sent[rank] = local
            self.barrier.wait(timeout=30)
            rows = torch.cat(self.sent)
            self.barrier.wait(timeout=30)
            return rows

        return gather


def batch_step(features):
    centred = features - features.mean(0)
    terms = {"a": centred.square().mean(), "b": 3 * (features @ features.T).square().mean()}
    return StepResult.of(terms, {"a": 1.0, "b": 0.5})


def train(share, num_workers, gather):
    """Six steps of a layer whose worker sees `share` of the images; -> weights of every step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 8, 5, generator=generator)
    layer = nn.Linear(5, 3)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(layer.bias)
    balance = GradNorm(config(reference="mean", warm_iterations=2), "ab")
    seen = []
    for batch in images:
        features = layer(batch)
        own = torch.zeros(8, 1)
        own[share] = num_workers  # what `Collective.gather` does to the gradient of one's rows
        mixed = features.detach() + own * (features - features.detach())
        result = balance(batch_step(mixed), list(layer.parameters()), gather)
        seen.append({name: float(weight) for name, weight in result.weights.items()})
    return seen, balance.state_dict()


def test_two_workers_balance_as_one():
    wanted, state = train(slice(None), 1, alone)
    assert wanted[-1]["a"] != wanted[0]["a"]
    workers, found = Workers(), [None, None]

    def work(rank):
        found[rank] = train(slice(4 * rank, 4 * rank + 4), 2, workers.of(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0][0] == found[1][0]
    for step, theirs in zip(wanted, found[0][0], strict=True):
        assert theirs == pytest.approx(step, rel=1e-5)
    for name, tensor in state.items():
        assert torch.allclose(found[0][1][name], tensor, rtol=1e-4), name


def test_gradients_are_measured_outside_autocast(theta):
    under_autocast = []
    copy = theta.clone()
    copy.register_hook(lambda _: under_autocast.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        GradNorm(config(), "ab")(linear_step(copy), [theta], alone)
    assert under_autocast == [False, False]


def test_invalid_balancing_is_rejected(theta):
    with pytest.raises(ValueError, match=r"at least two distinct loss terms, got \['a'\]"):
        GradNorm(config(), ["a"])
    theta.requires_grad_(False)
    with pytest.raises(ValueError, match="got 1 parameters without gradients"):
        GradNorm(config(), "ab")(linear_step(theta), [theta], alone)
    with pytest.raises(ValidationError, match="expected min_weight <= 1 <= max_weight"):
        config(min_weight=2.0)


@pytest.mark.parametrize("name", CLASSIFYING)
def test_learners_balance_exactly_their_configured_terms(course, name):
    trainer = course(name, gradnorm={"enabled": True, "warm_iterations": 1, "lr": 0.3})
    trainer.learn("first")
    trainer.begin("second")
    weighed, named = set(), set(trainer.learner.config.balanced)
    for stage in trainer.learner.stages():
        first, *_, last = trainer.train(stage, range(4))
        moved = {term for term in last.terms if first.weights[term] != last.weights[term]}
        assert moved <= named
        weighed |= moved
        trainer.learner.end_stage(stage.name, trainer.probe)
    assert weighed == named


@pytest.mark.parametrize(
    ("name", "off"),
    [("finetune", ("triplet",)), ("krkc", ("triplet", "replay_triplet", "rectification"))],
)
def test_single_term_is_rejected(course, name, off):
    with pytest.raises(ValidationError, match="at least two distinct loss terms"):
        course(name, gradnorm={"enabled": True}, losses={each: {"weight": 0} for each in off})
