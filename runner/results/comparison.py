"""Compares finished runs: differences of their protocols, and which scores are comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.results.finished_runs import Column, FinishedRun, RunGroup, averaged, group_runs
from runner.results.published import PublishedResults, PublishedRow
from tasks.protocol.lock_differences import Difference, is_test_comparable, lock_differences
from tasks.retrieval.metrics import METRICS


@dataclass(frozen=True)
class Comparison:
    """Comparison of groups of runs.

    Attributes:
        groups: groups in the order of their first runs.
        differences: differences of their protocol locks.
        columns: scores that at least one group has.
        published: published rows of the groups' benchmarks.
        literature: source of the published rows.
        incomparable: (label, column) of scores not comparable with the first of the column.
        trained_otherwise: by label, differences from the first group's training data.
    """

    groups: tuple[RunGroup, ...]
    differences: list[Difference]
    columns: tuple[Column, ...]
    published: tuple[PublishedRow, ...]
    literature: PublishedResults
    incomparable: frozenset[tuple[str, Column]]
    trained_otherwise: Mapping[str, list[Difference]]

    @property
    def reference(self) -> RunGroup:
        """First group, the reference for training data."""
        return self.groups[0]

    @property
    def by_text(self) -> bool:
        """Whether all domains have text queries."""
        return all(group.first.by_text for group in self.groups)

    def first_with(self, column: Column) -> RunGroup | None:
        """First group with a score in this column, the reference for comparability."""
        return next((group for group in self.groups if group.domains_of(column)), None)

    def published_compares(self, row: PublishedRow, column: Column) -> bool:
        """Whether a published score covers the same domains as the first of the column."""
        first = self.first_with(column)
        domains = averaged(column, row.order, row.unseen)
        return first is not None and domains == first.domains_of(column)

    def to_json(self) -> dict[str, Any]:
        """Groups with unrounded scores, differences, and published rows with their sources."""
        return {
            "runs": [self._group_json(group) for group in self.groups],
            "differences": [
                {
                    "domain": each.domain,
                    "affects": each.affects,
                    "sentence": each.sentence,
                    "paths": list(each.paths),
                }
                for each in self.differences
            ],
            "published": [
                row.model_dump(mode="json")
                | {
                    "source": self.literature.sources[row.source],
                    "remarks": [self.literature.remarks[key] for key in row.remarks],
                }
                for row in self.published
            ],
        }

    def _group_json(self, group: RunGroup) -> dict[str, Any]:
        first, matrix = group.first, group.first.matrix
        return {
            "label": group.label,
            "learner": first.config.learner.name,
            "backbone": first.config.backbone.name,
            "benchmark": first.benchmark,
            "seen": list(matrix.seen),
            "unseen": list(matrix.unseen),
            "num_seeds": len(group.members),
            "members": [
                {
                    "name": member.folder.name,
                    "folder": str(member.folder),
                    "seed": member.config.seed,
                    "git_revision": member.results.get("git_revision"),
                    "config_hash": member.results.get("config_hash"),
                }
                for member in group.members
            ],
            "domains": {
                column.domain: _estimates_json(group, column) for column in _domain_columns(group)
            },
            "seen_average": _estimates_json(group, Column("seen average")),
            "unseen_average": _estimates_json(group, Column("unseen average")),
            "forgetting": _estimates_json(group, Column("forgetting")),
            "not_comparable": [
                column.name for column in self.columns if (group.label, column) in self.incomparable
            ],
            "trained_otherwise": [
                each.sentence for each in self.trained_otherwise.get(group.label, ())
            ],
        }


def compare_runs(
    runs: Sequence[FinishedRun], literature: PublishedResults, *, every_unseen: bool = False
) -> Comparison:
    """Groups runs over seeds and determines which scores are comparable.

    Args:
        runs: at least one run.
        literature: published results.
        every_unseen: include a column per unseen domain in addition to their average.

    Raises:
        ValueError: a run is given twice.
    """
    groups = group_runs(runs)
    differences = _cached_differences()
    columns = _columns(groups, every_unseen)
    trained_otherwise = {
        group.label: _training_differences(differences(groups[0], group)) for group in groups
    }
    return Comparison(
        groups=groups,
        differences=lock_differences({group.label: group.first.lock for group in groups}),
        columns=columns,
        published=_published(groups, literature),
        literature=literature,
        incomparable=frozenset(
            (label, column)
            for column in columns
            for label in _incomparable(groups, column, differences)
        ),
        trained_otherwise={label: each for label, each in trained_otherwise.items() if each},
    )


_Differences = Callable[[RunGroup, RunGroup], list[Difference]]


def _cached_differences() -> _Differences:
    """Returns a function that computes lock differences of two groups, once per pair."""
    cache: dict[tuple[str, str], list[Difference]] = {}

    def differences(one: RunGroup, other: RunGroup) -> list[Difference]:
        pair = (one.label, other.label)
        if pair not in cache:
            cache[pair] = lock_differences(
                {one.label: one.first.lock, other.label: other.first.lock}
            )
        return cache[pair]

    return differences


def _incomparable(
    groups: Sequence[RunGroup], column: Column, differences: _Differences
) -> list[str]:
    """Labels of the groups whose score is not comparable with the first of the column."""
    scored = [group for group in groups if group.domains_of(column)]
    return [
        group.label
        for group in scored[1:]
        if not _is_comparable(scored[0], group, column, differences(scored[0], group))
    ]


def _is_comparable(
    first: RunGroup, other: RunGroup, column: Column, differences: Sequence[Difference]
) -> bool:
    domains = first.domains_of(column)
    if domains != other.domains_of(column):
        return False
    if column.kind == "forgetting" and first.first.matrix.seen != other.first.matrix.seen:
        return False
    return all(is_test_comparable(differences, domain) for domain in domains)


def _training_differences(differences: Sequence[Difference]) -> list[Difference]:
    return [each for each in differences if each.affects in ("people", "training", "order")]


def _columns(groups: Sequence[RunGroup], every_unseen: bool) -> tuple[Column, ...]:
    columns = [column for group in groups for column in _domain_columns(group)]
    min_domains = {Column("seen average"): 2, Column("unseen average"): 1, Column("forgetting"): 2}
    chosen = [
        *(column for column in columns if column.kind == "seen"),
        *(
            average
            for average, fewest in min_domains.items()
            if any(len(group.domains_of(average)) >= fewest for group in groups)
        ),
        *(column for column in columns if column.kind == "unseen" and every_unseen),
    ]
    return tuple(dict.fromkeys(chosen))


def _domain_columns(group: RunGroup) -> list[Column]:
    matrix = group.first.matrix
    seen = [Column("seen", domain) for domain in matrix.seen]
    return seen + [Column("unseen", domain) for domain in matrix.unseen]


def _published(
    groups: Sequence[RunGroup], literature: PublishedResults
) -> tuple[PublishedRow, ...]:
    learned = dict.fromkeys((group.first.benchmark, group.first.matrix.seen) for group in groups)
    return tuple(row for benchmark, order in learned for row in literature.of(benchmark, order))


def _estimates_json(group: RunGroup, column: Column) -> dict[str, dict[str, float | None] | None]:
    estimates = {metric: group.estimate(column, metric) for metric in METRICS}
    return {
        metric: estimate and {"mean": estimate.mean, "standard_deviation": estimate.deviation}
        for metric, estimate in estimates.items()
    }
