"""Optimisers and learning-rate schedules of a stage.

The learning rate is a pure function of the iteration and is set before each update, so a resumed
stage needs no scheduler state.
"""

from __future__ import annotations

import difflib
import math
from bisect import bisect_right
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models.learner import OptimizerConfig, ScheduleConfig


def set_trainable(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Sets `requires_grad` to whether the path of a parameter matches one of `patterns` (fnmatch).

    Returns:
        Paths of the trainable parameters, in the order of the module.

    Raises:
        ValueError: a pattern matches no parameter.
    """
    patterns = tuple(patterns)
    _check_patterns(module, "trainable", patterns)
    trainable = []
    for path, parameter in module.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(path, pattern) for pattern in patterns))
        parameter.grad = None
        if parameter.requires_grad:
            trainable.append(path)
    return trainable


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Builds an optimiser over the trainable parameters, one group per (lr factor, weight decay).

    Each group has a key `lr_factor`, which `set_learning_rate` multiplies by.

    Raises:
        ValueError: a pattern of `lr_factors` or `no_decay` matches no parameter of the module,
            trainable or frozen.
    """
    _check_patterns(module, "lr_factors", config.lr_factors)
    _check_patterns(module, "no_decay", config.no_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (_lr_factor(path, config), _decay(path, config))
            groups.setdefault(key, []).append(parameter)
    arguments = [
        {"params": parameters, "lr": config.lr * factor, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    match config.name:
        case "adam":
            return torch.optim.Adam(arguments, lr=config.lr)
        case "adamw":
            return torch.optim.AdamW(arguments, lr=config.lr)
        case "sgd":
            return torch.optim.SGD(arguments, lr=config.lr, momentum=config.momentum)


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None
) -> Tensor | None:
    """Computes the gradients of a loss and updates the parameters.

    Args:
        optimizer: optimiser of all trainable parameters.
        loss: scalar with gradient.
        clip_norm: maximum L2 norm of all gradients together, after averaging over the workers;
            None does not limit it.

    Returns:
        The norm before clipping, a scalar without gradient; None if `clip_norm` is None.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = None
    if clip_norm is not None:
        groups = optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    return norm


def _check_patterns(module: nn.Module, purpose: str, patterns: Iterable[str]) -> None:
    paths = [path for path, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
            raise ValueError(
                f"{purpose}: pattern {pattern!r} matches no parameter; similar parameters are "
                f"{', '.join(near)} ({len(paths)} in all)"
            )


def _lr_factor(path: str, config: OptimizerConfig) -> float:
    factor = config.bias_lr_factor if path.endswith("bias") else 1.0
    for pattern, multiplier in config.lr_factors.items():
        if fnmatchcase(path, pattern):
            factor *= multiplier
    return factor


def _decay(path: str, config: OptimizerConfig) -> float:
    exempt = any(fnmatchcase(path, pattern) for pattern in config.no_decay)
    return 0.0 if exempt else config.weight_decay


def learning_rate_factor(
    schedule: ScheduleConfig, iteration: int, iterations_per_epoch: int, total_iterations: int
) -> float:
    """Returns the factor of the base learning rate at `iteration` (0-based) of a stage.

    The factor is a linear warm-up from `warmup_factor` to 1, multiplied by the shape of the
    schedule. The cosine runs from the end of the warm-up to the end of the stage.
    """
    warmup = schedule.warmup_iterations or schedule.warmup_epochs * iterations_per_epoch
    factor = 1.0
    if iteration < warmup:
        start = schedule.warmup_factor
        factor = start + (1.0 - start) * iteration / warmup
    match schedule.kind:
        case "constant":
            return factor
        case "multistep":
            milestones = list(schedule.milestone_iterations) or [
                epoch * iterations_per_epoch for epoch in schedule.milestone_epochs
            ]
            return factor * schedule.gamma ** bisect_right(sorted(milestones), iteration)
        case "cosine":
            progress = max(0.0, iteration - warmup) / max(1.0, total_iterations - warmup)
            shape = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
            return factor * (schedule.final_factor + (1.0 - schedule.final_factor) * shape)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of each group to `learning_rate` times its `lr_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]
