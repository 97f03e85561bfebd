"""GradNorm: task weights under which the losses pull on a shared layer in a chosen proportion.

A learner opts in with four lines and stays what it is without them: its `Config` is a
`BalancedConfig`; a module of its own, built with the names of the terms to balance,
`self.balance = GradNorm(config.gradnorm, config.balanced)`; in `forward`, in place of
`return result`,

    return self.balance(result, self.shared_parameters(), self.collective.gather)

and `self.balance.begin_domain()` in `begin_domain`. `Learner.shared_parameters` is the learner's
word for the last layer that all these terms reach and the stage trains. The balancer's state is
buffers of the learner, so a checkpoint holds it; nothing in it is a parameter of the learner's
optimiser. Where the section stands at `learner.gradnorm`, a run without it keeps its hash.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim.adam import adam

from models.learner import LearnerConfig, StepResult
from tasks.schema import FrozenConfig

Gather = Callable[[Tensor], Tensor]

_LEAST_LOSS = 1e-6


class GradNormConfig(FrozenConfig):
    """Balancing of the loss terms by the sizes of their gradients."""

    enabled: bool = Field(default=False, description="whether the weights are learned")
    alpha: float = Field(
        default=1.5, gt=0, description="strength of the balance against `regularisation`"
    )
    asymmetry: float = Field(
        default=1.0,
        ge=0,
        description="exponent of a task's training rate (Chen et al.'s alpha); 0: equal pulls",
    )
    reference: Literal["first", "mean"] = Field(
        default="first",
        description="the pull that all are measured by: of the first task, or their mean",
    )
    lr: float = Field(default=0.025, gt=0, description="Adam learning rate of the log weights")
    regularisation: float = Field(default=1e-3, ge=0, description="lambda, weight of sum (log w)^2")
    min_weight: float = Field(default=1e-4, gt=0, description="least weight before the rescaling")
    max_weight: float = Field(default=10.0, gt=0, description="largest weight before the rescaling")
    warm_iterations: int = Field(
        default=10,
        ge=1,
        description="iterations, at the start of each domain, whose mean is a task's initial loss; "
        "the weights stay as they are meanwhile",
    )
    reset_weights: bool = Field(
        default=False, description="whether each domain begins with equal weights"
    )

    @model_validator(mode="after")
    def _ordered(self) -> GradNormConfig:
        if not self.min_weight <= 1 <= self.max_weight:
            raise ValueError(
                "the weights start at 1: expected min_weight <= 1 <= max_weight, came "
                f"{self.min_weight} and {self.max_weight}"
            )
        return self


def check_tasks(config: GradNormConfig, names: Sequence[str]) -> None:
    """Refuses a balance of fewer than two tasks.

    Raises:
        ValueError: it is enabled, and there are not two different names.
    """
    if config.enabled and (len(names) < 2 or len(set(names)) < len(names)):
        raise ValueError(
            f"GradNorm balances two or more differently named loss terms, came {list(names)}: "
            "give more terms a weight above 0, or set gradnorm.enabled=false"
        )


class BalancedConfig(LearnerConfig):
    """Settings of a learner whose terms GradNorm can weigh."""

    gradnorm: GradNormConfig = Field(default_factory=GradNormConfig)

    @property
    @abstractmethod
    def balanced(self) -> tuple[str, ...]:
        """The terms that GradNorm weighs: those with a weight that all reach one shared layer."""

    @model_validator(mode="after")
    def _has_tasks_to_balance(self) -> BalancedConfig:
        check_tasks(self.gradnorm, self.balanced)
        return self


class GradNorm(nn.Module):
    """Learns weights w_k of some terms of a step, and multiplies their configured weights by them.

    G_k = w_k * |grad of term k (with its configured weight) by the shared parameters|_2, and
    r_k = (L_k / L_k^0) / mean_j (L_j / L_j^0). One Adam step per iteration on s_k = log w_k lowers

        alpha * sum_k |G_k - r_k^asymmetry * G_ref| + regularisation * sum_k s_k^2

    where the second part of the difference carries no gradient; then w is clipped and rescaled to
    sum to the number of tasks. The gradients' vectors (before the norm) and the losses are means
    over the workers, so all workers hold the same weights, those of one worker. The derivative by
    s_k is known in closed form: no double backward. A step's loss takes the weights from before its
    update. Neither part of the sum above reaches the network.

    A task that a step has no term for keeps its weight; the rescaling counts those that are there.
    Terms of other names keep their configured weights. The regularisation is measured by the pulls
    as they are: it wins where alpha * G_k is below 2 * regularisation * |s_k|, and for a term that
    does not depend on the shared parameters (G_k = 0). An iteration with a loss or gradient that is
    not finite changes nothing. Disabled, it gives every step back as it came, and adds nothing to
    the learner's checkpoints.

    Args:
        config: strength and bounds.
        names: the tasks, at least two; the first is the reference of `reference: first`.

    Source: Chen et al. 2018, with a strength, another reference and a regularisation as in the
    decoupling paper. With the first task as the reference, its own two terms of the sum are left
    out and the rescaling alone moves w_1: moving w_1 moves its target alike, so that it would run
    up or down by the sign of 1 - r_1, however small, and as fast as the others follow. Adam takes
    steps of equal size, so even the regularisation alone would do that.
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
        """Forgets the initial losses, and with `reset_weights` the weights too."""
        forgotten = [self.initial_losses, self.num_warm]
        if self.config.reset_weights:
            forgotten += [
                self.log_weights,
                self.num_updates,
                self.first_moments,
                self.second_moments,
            ]
        for state in forgotten:
            state.zero_()

    def forward(
        self, result: StepResult, shared: Sequence[nn.Parameter], gather: Gather
    ) -> StepResult:
        """The step under the learned weights; then, where gradients flow, learns from it.

        Args:
            result: terms of the global batch, and their configured weights.
            shared: parameters of the last shared layer.
            gather: the learner's `collective.gather`.

        Raises:
            ValueError: none of `shared` receives gradients.
        """
        tasks = [task for task, name in enumerate(self.names) if name in result.terms]
        if not self.config.enabled or len(tasks) < 2:
            return result
        weights = dict(result.weights)
        for task, weight in zip(tasks, self._weights(tasks).tolist(), strict=True):
            weights[self.names[task]] *= weight
        if torch.is_grad_enabled():
            self._learn(tasks, result, shared, gather)
        return StepResult.of(result.terms, weights)

    def _weights(self, tasks: list[int]) -> Tensor:
        """Weights of these tasks, summing to their number."""
        return self.log_weights[tasks].softmax(0) * len(tasks)

    @torch.no_grad()
    def _learn(
        self,
        tasks: list[int],
        result: StepResult,
        shared: Sequence[nn.Parameter],
        gather: Gather,
    ) -> None:
        names = [self.names[task] for task in tasks]
        measured = gather(measure(names, result, shared)[None]).mean(0)
        losses, norms = measured[:, 0], torch.linalg.vector_norm(measured[:, 1:], dim=1)
        if not bool((losses.isfinite() & norms.isfinite()).all()):
            return
        if self._warms(tasks, losses):
            return
        config, weights = self.config, self._weights(tasks)
        rates = training_rates(losses, self.initial_losses[tasks])
        self._step(tasks, log_weight_gradient(weights, norms, rates, config))
        clipped = self.log_weights[tasks].exp().clamp(config.min_weight, config.max_weight)
        self.log_weights[tasks] = (clipped * (len(tasks) / clipped.sum())).log()

    def _warms(self, tasks: list[int], losses: Tensor) -> bool:
        """Adds to the initial losses that are not complete; true if there were any."""
        warming = self.num_warm[tasks] < self.config.warm_iterations
        self.initial_losses[tasks] += losses * warming / self.config.warm_iterations
        self.num_warm[tasks] += warming
        return bool(warming.any())

    def _step(self, tasks: list[int], gradient: Tensor) -> None:
        """One Adam step of each of these tasks, whose states are as old as their own updates."""
        adam(
            [self.log_weights[task] for task in tasks],
            list(gradient),
            [self.first_moments[task] for task in tasks],
            [self.second_moments[task] for task in tasks],
            [],
            [self.num_updates[task] for task in tasks],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.config.lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def measure(names: Sequence[str], result: StepResult, shared: Sequence[nn.Parameter]) -> Tensor:
    """Losses and gradients of K terms on this worker.

    The graph stays for the step's own backward, and no parameter's `grad` is touched. With several
    workers a worker's gradient is that of its slice of the batch, counted once per worker: the mean
    over the workers is the gradient of the global batch.

    Args:
        names: the K terms.
        result: the step.
        shared: parameters of P numbers in all, frozen ones not counted.

    Returns:
        [K, 1 + P] float32: the raw loss, then the gradient of the loss times its configured weight.

    Raises:
        ValueError: none of `shared` receives gradients.
    """
    live = [parameter for parameter in shared if parameter.requires_grad]
    if not live:
        raise ValueError(
            "GradNorm measures gradients on a shared layer, and none of the "
            f"{len(shared)} parameters it was given receives any: name parameters that the stage "
            "trains, or set gradnorm.enabled=false"
        )
    rows = []
    for name in names:
        term, weight = result.terms[name], result.weights[name]
        gradients: Sequence[Tensor | None] = [None] * len(live)
        if term.requires_grad:
            gradients = torch.autograd.grad(term, live, retain_graph=True, allow_unused=True)
        pieces = [term.detach().reshape(1)]
        for gradient, parameter in zip(gradients, live, strict=True):
            full = torch.zeros_like(parameter) if gradient is None else gradient
            pieces.append(weight * full.flatten())
        rows.append(torch.cat([piece.float() for piece in pieces]))
    return torch.stack(rows)


def training_rates(losses: Tensor, initial_losses: Tensor) -> Tensor:
    """r_k = (L_k / L_k^0) / mean_j (L_j / L_j^0): above 1 where a task lags behind.

    Args:
        losses: [K]; a negative one counts as 0.
        initial_losses: [K], floored at 1e-6.

    Returns:
        [K] >= 0 of mean 1; all 1 where all losses are 0.
    """
    ratios = losses.clamp(min=0) / initial_losses.clamp(min=_LEAST_LOSS)
    mean = ratios.mean()
    return torch.where(mean > 0, ratios / mean.clamp(min=torch.finfo(mean.dtype).tiny), 1.0)


def log_weight_gradient(
    weights: Tensor, norms: Tensor, rates: Tensor, config: GradNormConfig
) -> Tensor:
    """Derivative by s_k = log w_k of GradNorm's loss and its regularisation, targets held fixed.

    Args:
        weights: w [K].
        norms: gradient norms [K] at w = 1.
        rates: r [K].
        config: strength, exponent and reference.

    Returns:
        [K]: alpha * sign(G_k - target_k) * G_k + 2 * regularisation * s_k; 0 for the first task
        where it is the reference.
    """
    pulls = weights * norms
    reference = pulls[0] if config.reference == "first" else pulls.mean()
    signs = (pulls - rates**config.asymmetry * reference).sign()
    gradient = config.alpha * signs * pulls + 2 * config.regularisation * weights.log()
    if config.reference == "first":
        gradient[0] = 0.0  # see the class: its own terms balance nothing
    return gradient
