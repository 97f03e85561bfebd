"""What a run has found so far, and how its iterations are written down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.learner import StepResult
from runner.events import EventSpool
from runner.selection import Candidate
from tasks.retrieval.metrics import ResultMatrix
from tasks.schema import Benchmark

FLUSH_ITERATIONS = 10


@dataclass
class Progress:
    """What the loop has found so far; it travels in every checkpoint.

    Attributes:
        test: scores on the test splits.
        validation: scores on the validation identities.
        iteration: optimiser updates done.
        memory_version: version of the published prototypes.
        candidates: what a checkpoint is chosen among, if one is.
        counts: images trained on, images evaluated.
        unreadable_images: unreadable training images by domain.
        unreadable_test_images: test images that took no part in the last evaluation, by domain.
        seconds: wall time by what it was spent on.
    """

    test: ResultMatrix
    validation: ResultMatrix
    iteration: int = 0
    memory_version: int = 0
    candidates: list[Candidate] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unreadable_images: dict[str, int] = field(default_factory=dict)
    unreadable_test_images: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, number: int) -> None:
        """Adds to the counter `name`."""
        self.counts[name] = self.counts.get(name, 0) + number

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the wall time of a block to the account `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {**vars(self), "test": self.test.to_json(), "validation": self.validation.to_json()}

    @staticmethod
    def from_json(benchmark: Benchmark, values: dict[str, Any]) -> Progress:
        """The inverse of `to_json`."""
        empty = Progress.begin(benchmark).test
        matrices = {
            name: ResultMatrix.from_json(values[name], empty.seen, empty.unseen)
            for name in ("test", "validation")
        }
        return Progress(**{**values, **matrices})

    @staticmethod
    def begin(benchmark: Benchmark) -> Progress:
        """Empty matrices for the benchmark's domains."""
        seen = tuple(domain.name for domain in benchmark.seen)
        unseen = tuple(domain.name for domain in benchmark.unseen)
        return Progress(ResultMatrix(seen, unseen), ResultMatrix(seen, unseen))


class StepLog:
    """Collects training steps and writes them every few iterations, lest a GPU be waited for.

    Args:
        spool: where the events go; None on every worker but rank 0.
        where: fields of every event (domain, domain_index, stage, epoch).
        batch_size: images of a global batch.
    """

    def __init__(self, spool: EventSpool | None, where: dict[str, Any], batch_size: int) -> None:
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
