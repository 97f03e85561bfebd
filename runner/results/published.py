"""Published results: the rows of published.yaml that belong to a benchmark."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from tasks.benchmarks import ORDERS
from tasks.schema import FrozenConfig

PUBLISHED = Path(__file__).with_name("published.yaml")

Scores = dict[Literal["mAP", "R1", "R5", "R10"], Annotated[float, Field(ge=0, le=100)]]
"""Percent by metric, as printed."""


class PublishedRow(FrozenConfig):
    """What one source prints of one method on one benchmark."""

    benchmark: str = Field(description="an order of the literature, or one data set")
    method: str = Field(description="as the source calls it")
    backbone: str | None = Field(description="null where the source does not say")
    source: str = Field(description="key of the file's sources")
    remarks: tuple[str, ...] = Field(default=(), description="keys of the file's remarks")
    domains: dict[str, Scores] = Field(
        default_factory=dict, description="after the last domain, by domain; those that are printed"
    )
    seen_average: Scores = Field(default_factory=dict, description="over the seen domains")
    unseen_average: Scores = Field(default_factory=dict, description="over the unseen domains")

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Seen domains in lifelong order."""
        return ORDERS.get(self.benchmark, ((self.benchmark,), ()))[0]

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """Domains that are only tested."""
        return ORDERS.get(self.benchmark, ((), ()))[1]

    @model_validator(mode="after")
    def _domains_of_the_benchmark(self) -> PublishedRow:
        if foreign := set(self.domains) - set(self.order):
            raise ValueError(f"{self.benchmark} does not have {', '.join(sorted(foreign))}")
        if not (self.domains or self.seen_average or self.unseen_average):
            raise ValueError(f"{self.method} on {self.benchmark}: expected a score, none came")
        return self


class PublishedResults(FrozenConfig):
    """The whole file."""

    sources: dict[str, str] = Field(description="where rows come from, in words, by key")
    remarks: dict[str, str] = Field(description="what to know of rows, in words, by key")
    rows: tuple[PublishedRow, ...] = Field(description="in the order in which they are shown")

    @model_validator(mode="after")
    def _known_keys(self) -> PublishedResults:
        for row in self.rows:
            if row.source not in self.sources:
                raise ValueError(f"{row.method} on {row.benchmark}: no source {row.source!r}")
            if unknown := set(row.remarks) - set(self.remarks):
                raise ValueError(f"{row.method} on {row.benchmark}: no remark {unknown.pop()!r}")
        return self

    def of(self, benchmark: str, order: tuple[str, ...]) -> list[PublishedRow]:
        """The rows of a benchmark, if it is learned in its own order."""
        return [row for row in self.rows if (row.benchmark, row.order) == (benchmark, order)]


def load_published(path: Path = PUBLISHED) -> PublishedResults:
    """Reads the file that ships with the project.

    Raises:
        ValueError: a row does not fit the schema.
    """
    return PublishedResults.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
