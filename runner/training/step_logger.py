"""What a run has found so far, and how its iterations are written down."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.learner import StepResult
from runner.tracking.event_log import EventLog

FLUSH_ITERATIONS = 10


class StepLog:
    """Collects training steps and writes them every few iterations, lest a GPU be waited for.

    Args:
        spool: where the events go; None on every worker but rank 0.
        where: fields of every event (domain, domain_index, stage, epoch).
        batch_size: images of a global batch.
    """

    def __init__(self, spool: EventLog | None, where: dict[str, Any], batch_size: int) -> None:
        self.spool = spool
        self.where = where
        self.batch_size = batch_size
        self.steps: list[tuple[int, StepResult, float]] = []
        self.began = time.perf_counter()

    def add(self, iteration: int, result: StepResult, learning_rate: float) -> None:
        """Takes the step that was iteration `iteration` of the run (from 0)."""
        detached = StepResult(
            result.loss.detach(),
            {name: term.detach() for name, term in result.terms.items()},
            result.weights,
        )
        self.steps.append((iteration, detached, learning_rate))
        if len(self.steps) >= FLUSH_ITERATIONS:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected.

        Raises:
            FloatingPointError: a loss is NaN or infinite; says where, and each term's value.
        """
        if not self.steps:
            return
        values = torch.stack([_scalars(step) for _, step, _ in self.steps]).tolist()
        elapsed = time.perf_counter() - self.began
        images_per_s = len(self.steps) * self.batch_size / max(elapsed, 1e-9)
        for (iteration, step, learning_rate), (loss, *terms) in zip(
            self.steps, values, strict=True
        ):
            named = dict(zip(step.terms, terms, strict=True))
            self._check_finite(iteration, loss, named)
            if self.spool is not None:
                self.spool.emit(
                    "iteration",
                    **self.where,
                    iteration=iteration,
                    loss=loss,
                    terms=named,
                    weights=dict(step.weights),
                    lr=learning_rate,
                    images_per_s=images_per_s,
                )
        self.steps.clear()
        self.began = time.perf_counter()

    def _check_finite(self, iteration: int, loss: float, terms: dict[str, float]) -> None:
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} at iteration {iteration} "
                f"(domain {self.where['domain']}, stage {self.where['stage']}; terms {terms}); "
                "lower the stage's optimizer.lr, or the weight of the term that grew"
            )


def _scalars(step: StepResult) -> Tensor:
    return torch.stack([value.float() for value in (step.loss, *step.terms.values())])
