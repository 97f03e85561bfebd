"""Durations of the sections of a training step: towers, losses, backward pass, optimiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from models.learner import StepResult

TOTAL = "total"

Seconds = dict[str, float]
Step = Callable[[], Seconds]


def timed_step(
    forward: Callable[[], StepResult],
    optimizer: torch.optim.Optimizer,
    passes: Mapping[nn.Module, Sequence[str]],
) -> Step:
    """Returns a function that does one step on the CPU and returns the seconds of its sections.

    Args:
        forward: computes the loss.
        optimizer: optimiser of the trainable parameters.
        passes: for each tower, the names of its forward passes in a step, in order.

    Returns:
        Function whose result has one entry per forward pass, `heads_and_losses` (the rest of
        `forward`), `backward`, `optimizer`, and `total`.
    """
    towers: Seconds = {}

    def measure(tower: nn.Module, names: Sequence[str]) -> None:
        starts: list[float] = []

        def end(*_: object) -> None:
            name = next(name for name in names if name not in towers)
            towers[name] = time.perf_counter() - starts.pop()

        tower.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
        tower.register_forward_hook(end)

    for tower, names in passes.items():
        measure(tower, names)

    def step() -> Seconds:
        towers.clear()
        start_s = time.perf_counter()
        loss = forward().loss
        loss_s = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        backward_s = time.perf_counter()
        optimizer.step()
        end_s = time.perf_counter()
        return {
            **towers,
            "heads_and_losses": loss_s - start_s - sum(towers.values()),
            "backward": backward_s - loss_s,
            "optimizer": end_s - backward_s,
            TOTAL: end_s - start_s,
        }

    return step
