"""GradNorm: learned loss weights that balance the gradients on a shared layer.

To use it, a learner derives its `Config` from `BalancedConfig`, creates
`self.balance = GradNorm(config.gradnorm, config.balanced)`, calls `self.balance.begin_domain()` in
`begin_domain`, and in `forward` replaces `return result` by

    return self.balance(result, self.shared_parameters(), self.collective.gather)

`Learner.shared_parameters` returns the last layer that all these terms reach and the stage trains.
The state consists of buffers of the learner, so checkpoints include it; the learner's optimiser
does not train it. With the section at `learner.gradnorm`, a run without it keeps its hash.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.learner import LearnerConfig, StepResult
from tasks.schema import FrozenConfig

Gather = Callable[[Tensor], Tensor]

_MIN_INITIAL_LOSS = 1e-6
_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


class GradNormConfig(FrozenConfig):
    """Balancing of loss terms by their gradient norms."""

    enabled: bool = Field(default=False, description="learn the weights of the loss terms")
    alpha: float = Field(
        default=1.5, gt=0, description="strength of balancing relative to `regularisation`"
    )
    asymmetry: float = Field(
        default=1.0,
        ge=0,
        description="exponent of the training rate (alpha in Chen et al.); 0: equal gradient norms",
    )
    reference: Literal["first", "mean"] = Field(
        default="first",
        description="reference gradient norm: that of the first task, or the mean",
    )
    lr: float = Field(default=0.025, gt=0, description="learning rate of Adam on the log weights")
    regularisation: float = Field(default=1e-3, ge=0, description="lambda, weight of sum (log w)^2")
    min_weight: float = Field(default=1e-4, gt=0, description="minimum weight before rescaling")
    max_weight: float = Field(default=10.0, gt=0, description="maximum weight before rescaling")
    warm_iterations: int = Field(
        default=10,
        ge=1,
        description="iterations at the start of each domain that the initial losses are averaged "
        "over; the weights are not updated during these",
    )
    reset_weights: bool = Field(
        default=False, description="reset the weights at the start of each domain"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> GradNormConfig:
        if not self.min_weight <= 1 <= self.max_weight:
            raise ValueError(
                "weights start at 1: expected min_weight <= 1 <= max_weight, got "
                f"{self.min_weight} and {self.max_weight}"
            )
        return self


def check_tasks(config: GradNormConfig, names: Sequence[str]) -> None:
    """Check that GradNorm, if enabled, has at least two distinct tasks.

    Raises:
        ValueError: there are fewer than two tasks, or duplicate names.
    """
    if config.enabled and (len(names) < 2 or len(set(names)) < len(names)):
        raise ValueError(
            f"gradnorm: expected at least two distinct loss terms, got {list(names)}; "
            "give more terms a weight > 0, or set gradnorm.enabled=false"
        )


class BalancedConfig(LearnerConfig):
    """Configuration of a learner whose terms GradNorm can balance."""

    gradnorm: GradNormConfig = Field(default_factory=GradNormConfig)

    @property
    @abstractmethod
    def balanced(self) -> tuple[str, ...]:
        """Terms that GradNorm balances: non-zero weight, gradient on the shared layer."""

    @model_validator(mode="after")
    def _check_tasks(self) -> BalancedConfig:
        check_tasks(self.gradnorm, self.balanced)
        return self


class GradNorm(nn.Module):
    """Learn weights w_k of loss terms and multiply the configured weights by them.

    G_k = w_k * |gradient of term k (with its configured weight) w.r.t. the shared parameters|_2 and
    r_k = (L_k / L_k^0) / mean_j (L_j / L_j^0). Each iteration takes one Adam step on s_k = log w_k
    to minimise

        alpha * sum_k |G_k - r_k^asymmetry * G_ref| + regularisation * sum_k s_k^2

    where r_k^asymmetry * G_ref is treated as a constant. Then w is clipped and rescaled to sum to
    the number of tasks. Gradient vectors (before the norm) and losses are averaged over the
    workers, so all workers hold the weights that a single worker would. The derivative w.r.t. s_k
    has a closed form, so no double backward is needed. The loss of a step uses the weights from
    before its update. The objective above sends no gradient to the network.

    A task without a term in the current step keeps its weight; only the tasks present are rescaled.
    Terms with other names keep their configured weights. Regularisation uses absolute gradient
    norms: it dominates where alpha * G_k < 2 * regularisation * |s_k|, and for a term that does not
    depend on the shared parameters (G_k = 0). An iteration with a non-finite loss or gradient is
    skipped. If disabled, steps are returned unchanged and checkpoints contain no additional state.

    Args:
        config: settings.
        names: the tasks, at least two; the first one is the reference for `reference: first`.

    Source: Chen et al. 2018; strength, reference and regularisation as in the decoupling paper.
    With the first task as the reference, its own terms are left out of the sum and only rescaling
    changes w_1. Otherwise w_1 would change its own target and drift in the direction of the sign of
    1 - r_1, at Adam's step size, however small the difference; the regularisation alone would have
    the same effect.
    """

    log_weights: Tensor
    initial_losses: Tensor
    num_warm: Tensor
    num_updates: Tensor
    first_moments: Tensor
    second_moments: Tensor

    def __init__(self, config: GradNormConfig, names: Sequence[str]) -> None:
        super().__init__()
        check_tasks(config, names)
        self.config = config
        self.names = tuple(names)
        for buffer in (
            "log_weights",
            "initial_losses",
            "num_warm",
            "num_updates",
            "first_moments",
            "second_moments",
        ):
            self.register_buffer(buffer, torch.zeros(len(names)), persistent=config.enabled)

    def begin_domain(self) -> None:
        """Reset the initial losses and, with `reset_weights`, the weights."""
        buffers = [self.initial_losses, self.num_warm]
        if self.config.reset_weights:
            buffers += [
                self.log_weights,
                self.num_updates,
                self.first_moments,
                self.second_moments,
            ]
        for buffer in buffers:
            buffer.zero_()

    def forward(
        self, result: StepResult, shared: Sequence[nn.Parameter], gather: Gather
    ) -> StepResult:
        """Apply the learned weights to a step and, if gradients are enabled, update them.

        Args:
            result: terms of the global batch and their configured weights.
            shared: parameters of the last layer shared by the terms.
            gather: `collective.gather` of the learner.

        Returns:
            The step with the learned weights.

        Raises:
            ValueError: no parameter in `shared` requires gradients.
        """
        tasks = [task for task, name in enumerate(self.names) if name in result.terms]
        if not self.config.enabled or len(tasks) < 2:
            return result
        weights = dict(result.weights)
        for task, weight in zip(tasks, self._weights(tasks).unbind(), strict=True):
            weights[self.names[task]] = weight * weights[self.names[task]]
        if torch.is_grad_enabled():
            # The gradients are taken outside autocast, like those of the step.
            with torch.autocast(result.loss.device.type, enabled=False):
                self._update_weights(tasks, result, shared, gather)
        return StepResult.of(result.terms, weights)

    def _weights(self, tasks: list[int]) -> Tensor:
        """Return the weights of the given tasks; they sum to the number of tasks."""
        return _rows(self.log_weights, tasks).softmax(0) * len(tasks)

    @torch.no_grad()
    def _update_weights(
        self,
        tasks: list[int],
        result: StepResult,
        shared: Sequence[nn.Parameter],
        gather: Gather,
    ) -> None:
        """Update the log weights; conditions are tensors, so that the host never waits."""
        names = [self.names[task] for task in tasks]
        measured = gather(loss_gradients(names, result, shared)[None]).mean(0)
        losses, norms = measured[:, 0], torch.linalg.vector_norm(measured[:, 1:], dim=1)
        is_finite = (losses.isfinite() & norms.isfinite()).all()
        is_warm = self._update_initial_losses(tasks, losses, is_finite)
        rates = training_rates(losses, _rows(self.initial_losses, tasks))
        gradient = log_weight_gradient(self._weights(tasks), norms, rates, self.config)
        self._step(tasks, gradient, is_finite & is_warm)

    def _update_initial_losses(self, tasks: list[int], losses: Tensor, is_finite: Tensor) -> Tensor:
        """Accumulate finite initial losses; return whether all were complete before."""
        num_warm, size = _rows(self.num_warm, tasks), self.config.warm_iterations
        is_warm = num_warm >= size
        counts = is_finite & ~is_warm
        initial = _rows(self.initial_losses, tasks)
        _assign(self.initial_losses, tasks, initial + losses / size, counts)
        _assign(self.num_warm, tasks, num_warm + 1, counts)
        return is_warm.all()

    def _step(self, tasks: list[int], gradient: Tensor, is_due: Tensor) -> None:
        """If due, take one Adam step for each of the given tasks, which count their own updates.

        Adam of torch.optim copies the number of updates to the host.
        """
        config, (beta, beta_squared) = self.config, _ADAM_BETAS
        num_updates = _rows(self.num_updates, tasks) + 1
        first = torch.lerp(gradient, _rows(self.first_moments, tasks), beta)
        second = torch.lerp(gradient.square(), _rows(self.second_moments, tasks), beta_squared)
        denominator = (second / (1 - beta_squared**num_updates)).sqrt() + _ADAM_EPS
        step = config.lr * first / (1 - beta**num_updates) / denominator
        log_weights = _rows(self.log_weights, tasks) - step
        clipped = log_weights.exp().clamp(config.min_weight, config.max_weight)
        log_weights = (clipped * (len(tasks) / clipped.sum())).log()
        for buffer, values in (
            (self.num_updates, num_updates),
            (self.first_moments, first),
            (self.second_moments, second),
            (self.log_weights, log_weights),
        ):
            _assign(buffer, tasks, values, is_due)


def _rows(buffer: Tensor, tasks: list[int]) -> Tensor:
    """Select elements of a vector; unlike an index list, this copies nothing from the host."""
    return torch.stack([buffer[task] for task in tasks])


def _assign(buffer: Tensor, tasks: list[int], values: Tensor, condition: Tensor) -> None:
    """Replace elements of a vector where `condition` [K] or scalar holds, in place."""
    kept = torch.where(condition, values, _rows(buffer, tasks))
    for task, value in zip(tasks, kept.unbind(), strict=True):
        buffer[task] = value


def loss_gradients(
    names: Sequence[str], result: StepResult, shared: Sequence[nn.Parameter]
) -> Tensor:
    """Compute losses and gradients of K terms on this worker.

    The graph is retained for the backward pass of the step, and the parameters' `grad` is not
    changed. With several workers, the gradient is that of this worker's part of the batch, times
    the number of workers; the mean over the workers is the gradient of the global batch.

    Args:
        names: names of the K terms.
        result: the training step.
        shared: parameters, of which the trainable ones have P elements in total.

    Returns:
        [K, 1 + P] float32: unweighted loss, then gradient times the configured weight.

    Raises:
        ValueError: no parameter in `shared` requires gradients.
    """
    trainable = [parameter for parameter in shared if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "gradnorm: expected shared parameters that the stage trains, got "
            f"{len(shared)} parameters without gradients; return trained parameters from "
            "shared_parameters, or set gradnorm.enabled=false"
        )
    rows = []
    for name in names:
        term, weight = result.terms[name], result.weights[name]
        gradients: Sequence[Tensor | None] = [None] * len(trainable)
        if term.requires_grad:
            gradients = torch.autograd.grad(term, trainable, retain_graph=True, allow_unused=True)
        parts = [term.detach().reshape(1)]
        for gradient, parameter in zip(gradients, trainable, strict=True):
            full = torch.zeros_like(parameter) if gradient is None else gradient
            parts.append(weight * full.flatten())
        rows.append(torch.cat([part.float() for part in parts]))
    return torch.stack(rows)


def training_rates(losses: Tensor, initial_losses: Tensor) -> Tensor:
    """Compute r_k = (L_k / L_k^0) / mean_j (L_j / L_j^0); above 1 for slowly trained tasks.

    Args:
        losses: [K]; negative values count as 0.
        initial_losses: [K], clamped to at least 1e-6.

    Returns:
        [K], >= 0 with mean 1; all 1 if all losses are 0.
    """
    ratios = losses.clamp(min=0) / initial_losses.clamp(min=_MIN_INITIAL_LOSS)
    mean = ratios.mean()
    return torch.where(mean > 0, ratios / mean.clamp(min=torch.finfo(mean.dtype).tiny), 1.0)


def log_weight_gradient(
    weights: Tensor, norms: Tensor, rates: Tensor, config: GradNormConfig
) -> Tensor:
    """Compute the derivative of the GradNorm objective w.r.t. s_k = log w_k, targets fixed.

    Args:
        weights: [K], w.
        norms: [K] gradient norms at w = 1.
        rates: [K], r.
        config: strength, exponent and reference.

    Returns:
        [K], alpha * sign(G_k - target_k) * G_k + 2 * regularisation * s_k; 0 for the first task
        if it is the reference.
    """
    weighted_norms = weights * norms
    reference = weighted_norms[0] if config.reference == "first" else weighted_norms.mean()
    signs = (weighted_norms - rates**config.asymmetry * reference).sign()
    gradient = config.alpha * signs * weighted_norms + 2 * config.regularisation * weights.log()
    if config.reference == "first":
        gradient[0] = 0.0  # see the class docstring
    return gradient
