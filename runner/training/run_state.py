"""State of a run that is stored in every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runner.training.model_selection import Candidate
from tasks.retrieval.metrics import ResultMatrix
from tasks.schema import Benchmark


@dataclass
class RunState:
    """Results and counters of the training loop.

    Attributes:
        test: scores on the test splits.
        validation: scores on the validation identities.
        iteration: optimiser updates done.
        memory_version: version of the published prototypes.
        candidates: candidates for model selection, if it is enabled.
        counts: number of trained images and of evaluated images.
        unreadable_images: unreadable training images by domain.
        unreadable_test_images: test images excluded from the last evaluation, by domain.
        seconds: wall time by activity.
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
        """Adds `number` to the counter `name`."""
        self.counts[name] = self.counts.get(name, 0) + number

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the wall time of a block to `seconds[name]`."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start_s

    def to_json(self) -> dict[str, Any]:
        """Converts the state to JSON values; `from_json` is the inverse."""
        return {**vars(self), "test": self.test.to_json(), "validation": self.validation.to_json()}

    @staticmethod
    def from_json(benchmark: Benchmark, values: dict[str, Any]) -> RunState:
        """Restores a state from the values of `to_json`."""
        empty = RunState.begin(benchmark).test
        matrices = {
            name: ResultMatrix.from_json(values[name], empty.seen, empty.unseen)
            for name in ("test", "validation")
        }
        return RunState(**{**values, **matrices})

    @staticmethod
    def begin(benchmark: Benchmark) -> RunState:
        """Creates the state of a new run, with empty result matrices."""
        seen = tuple(domain.name for domain in benchmark.seen)
        unseen = tuple(domain.name for domain in benchmark.unseen)
        return RunState(ResultMatrix(seen, unseen), ResultMatrix(seen, unseen))


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Returns the states of torch's random generators, for a checkpoint within an epoch."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Restores the states of `generator_states`; a state for another device is ignored."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
