"""Published results of a benchmark, read from published.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from runner.results.finished_runs import Column
from tasks.benchmarks import ORDERS
from tasks.schema import FrozenConfig
from tasks.suggestion import suggestion

PUBLISHED = Path(__file__).with_name("published.yaml")

Scores = dict[Literal["mAP", "R1", "R5", "R10"], Annotated[float, Field(ge=0, le=100)]]
"""Percent by metric, as printed in the source."""


class PublishedRow(FrozenConfig):
    """Scores of one method on one benchmark, from one source."""

    benchmark: str = Field(description="benchmark order of the literature, or one data set")
    method: str = Field(description="name used by the source")
    backbone: str | None = Field(description="null if the source does not state it")
    source: str = Field(description="key in `sources`")
    remarks: tuple[str, ...] = Field(default=(), description="keys in `remarks`")
    domains: dict[str, Scores] = Field(
        default_factory=dict, description="scores after the last domain, by domain"
    )
    seen_average: Scores = Field(default_factory=dict, description="over the seen domains")
    unseen_average: Scores = Field(default_factory=dict, description="over the unseen domains")

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Seen domains in lifelong order."""
        return ORDERS.get(self.benchmark, ((self.benchmark,), ()))[0]

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """Domains used only for testing."""
        return ORDERS.get(self.benchmark, ((), ()))[1]

    @property
    def learns_one_data_set(self) -> bool:
        """Whether the benchmark is a single data set."""
        return len(self.order) == 1 and not self.unseen

    @property
    def by_text(self) -> bool:
        """Whether queries are texts; only papers on text queries print R5."""
        return any("R5" in scores for scores in self.domains.values())

    def scores_in(self, column: Column) -> Mapping[str, float]:
        """Scores in a column of a comparison, by metric; empty without any."""
        averages: dict[str, Scores] = {
            "seen average": self.seen_average,
            "unseen average": self.unseen_average,
            "forgetting": {},
        }
        scores = averages.get(column.kind, self.domains.get(column.domain, {}))
        return {str(metric): score for metric, score in scores.items()}

    @model_validator(mode="after")
    def _domains_of_the_benchmark(self) -> PublishedRow:
        if foreign := set(self.domains) - set(self.order):
            raise ValueError(
                f"domains: {self.benchmark} does not have {', '.join(sorted(foreign))}"
            )
        if not (self.domains or self.seen_average or self.unseen_average):
            raise ValueError(f"{self.method} on {self.benchmark}: expected a score, got none")
        return self


class PublishedResults(FrozenConfig):
    """Content of published.yaml."""

    sources: dict[str, str] = Field(description="descriptions of the sources, by key")
    remarks: dict[str, str] = Field(description="notes on rows, by key")
    rows: tuple[PublishedRow, ...] = Field(description="rows in display order")

    @model_validator(mode="after")
    def _known_keys(self) -> PublishedResults:
        for row in self.rows:
            if row.source not in self.sources:
                raise ValueError(f"{row.method} on {row.benchmark}: no source {row.source!r}")
            if unknown := set(row.remarks) - set(self.remarks):
                raise ValueError(f"{row.method} on {row.benchmark}: no remark {unknown.pop()!r}")
        return self

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks that have rows."""
        return list(dict.fromkeys(row.benchmark for row in self.rows))

    def of_benchmark(self, benchmark: str) -> list[PublishedRow]:
        """Rows of a benchmark in its own order.

        Raises:
            ValueError: the benchmark has no rows.
        """
        if benchmark not in self.benchmarks:
            raise ValueError(
                "--published: expected benchmarks with published results "
                f"({', '.join(self.benchmarks)}), got {benchmark!r}"
                f"{suggestion(benchmark, self.benchmarks)}"
            )
        return [row for row in self.rows if row.benchmark == benchmark]

    def of(self, benchmark: str, order: tuple[str, ...]) -> list[PublishedRow]:
        """Rows of a benchmark that is learned in this order."""
        return [row for row in self.rows if (row.benchmark, row.order) == (benchmark, order)]


def load_published(path: Path = PUBLISHED) -> PublishedResults:
    """Reads the published results that ship with the project.

    Raises:
        ValueError: a row does not fit the schema.
    """
    return PublishedResults.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
