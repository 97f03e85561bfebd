"""State of a run that travels in every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from runner.training.model_selection import Candidate
from tasks.retrieval.metrics import ResultMatrix
from tasks.schema import Benchmark


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
