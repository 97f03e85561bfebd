"""Logging of training iterations to the event log."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.learner import StepResult
from runner.tracking.event_log import EventLog

FLUSH_ITERATIONS = 10


class StepLogger:
    """Buffers training steps and logs several at a time to avoid GPU synchronisation.

    Args:
        events: the event log; None on every worker but rank 0.
        position: fields of every event (domain, domain_index, stage, epoch).
        batch_size: images in a global batch.
    """

    def __init__(self, events: EventLog | None, position: dict[str, Any], batch_size: int) -> None:
        self.events = events
        self.position = position
        self.batch_size = batch_size
        self.steps: list[tuple[int, StepResult, float, Tensor | None]] = []
        self.start_s = time.perf_counter()

    def add(
        self,
        iteration: int,
        result: StepResult,
        learning_rate: float,
        gradient_norm: Tensor | None = None,
    ) -> None:
        """Adds the result of iteration `iteration` of the run (0-based).

        `gradient_norm` is the norm before clipping, None without clipping.
        """
        detached = StepResult(
            result.loss.detach(),
            {name: term.detach() for name, term in result.terms.items()},
            result.weights,
        )
        self.steps.append((iteration, detached, learning_rate, gradient_norm))
        if len(self.steps) >= FLUSH_ITERATIONS:
            self.flush()

    def flush(self) -> None:
        """Logs the buffered steps.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        if not self.steps:
            return
        values = torch.stack([_scalars(step, norm) for _, step, _, norm in self.steps]).tolist()
        elapsed = time.perf_counter() - self.start_s
        images_per_s = len(self.steps) * self.batch_size / max(elapsed, 1e-9)
        for (iteration, step, learning_rate, norm), (loss, gradient_norm, *terms) in zip(
            self.steps, values, strict=True
        ):
            terms_by_name = dict(zip(step.terms, terms, strict=True))
            clipped = {} if norm is None else {"gradient_norm": gradient_norm}
            self._check_finite(iteration, loss, terms_by_name)
            if self.events is not None:
                self.events.emit(
                    "iteration",
                    **self.position,
                    iteration=iteration,
                    loss=loss,
                    terms=terms_by_name,
                    weights={name: float(weight) for name, weight in step.weights.items()},
                    lr=learning_rate,
                    images_per_s=images_per_s,
                    **clipped,
                )
        self.steps.clear()
        self.start_s = time.perf_counter()

    def _check_finite(self, iteration: int, loss: float, terms: dict[str, float]) -> None:
        if not np.isfinite(loss):
            domain, stage = self.position["domain"], self.position["stage"]
            raise FloatingPointError(
                f"expected a finite loss, got {loss} at iteration {iteration} "
                f"(domain {domain}, stage {stage}; terms {terms}); "
                "lower optimizer.lr of the stage or the weight of the diverging term"
            )


def _scalars(step: StepResult, gradient_norm: Tensor | None) -> Tensor:
    norm = torch.zeros_like(step.loss) if gradient_norm is None else gradient_norm
    return torch.stack([value.float() for value in (step.loss, norm, *step.terms.values())])
