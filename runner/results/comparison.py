"""Finished runs beside one another: where their protocols differ, and which numbers compare."""

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
    """What is shown.

    Attributes:
        groups: in the order in which their first runs were named.
        differences: of their protocol locks.
        columns: numbers that some group has.
        published: rows of the groups' benchmarks.
        literature: the file that these come from.
        incomparable: (label, column) of numbers that do not compare with the column's first.
        trained_otherwise: by label, differences from the first group in what was learned.
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
        """What the others are compared with in what they learned: the first."""
        return self.groups[0]

    @property
    def by_text(self) -> bool:
        """Whether every domain is searched by text."""
        return all(group.first.by_text for group in self.groups)

    def first_with(self, column: Column) -> RunGroup | None:
        """The group whose number the others of a column are compared with."""
        return next((group for group in self.groups if group.domains_of(column)), None)

    def published_compares(self, row: PublishedRow, column: Column) -> bool:
        """Whether a published number is over the same domains as the column's first."""
        first = self.first_with(column)
        over = averaged(column, row.order, row.unseen)
        return first is not None and over == first.domains_of(column)

    def to_json(self) -> dict[str, Any]:
        """Runs with unrounded numbers, differences, and published rows with their sources."""
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
    """Groups runs over seeds and finds out what compares.

    Args:
        runs: at least one.
        literature: where published rows are looked up.
        every_unseen: a column for each unseen domain beside their average.

    Raises:
        ValueError: a run is given twice.
    """
    groups = group_runs(runs)
    differences = _remembered()
    columns = _columns(groups, every_unseen)
    otherwise = {
        group.label: _training_differences(differences(groups[0], group)) for group in groups
    }
    return Comparison(
        groups=groups,
        differences=lock_differences({group.label: group.first.lock for group in groups}),
        columns=columns,
        published=_published(groups, literature),
        literature=literature,
        incomparable=frozenset(
            (label, column) for column in columns for label in _others(groups, column, differences)
        ),
        trained_otherwise={label: found for label, found in otherwise.items() if found},
    )


_Differences = Callable[[RunGroup, RunGroup], list[Difference]]


def _remembered() -> _Differences:
    """Lock differences of two groups, found once for each pair."""
    found: dict[tuple[str, str], list[Difference]] = {}

    def differences(one: RunGroup, other: RunGroup) -> list[Difference]:
        pair = (one.label, other.label)
        if pair not in found:
            found[pair] = lock_differences(
                {one.label: one.first.lock, other.label: other.first.lock}
            )
        return found[pair]

    return differences


def _others(groups: Sequence[RunGroup], column: Column, differences: _Differences) -> list[str]:
    """Labels of the groups whose number does not compare with the column's first."""
    having = [group for group in groups if group.domains_of(column)]
    return [
        group.label
        for group in having[1:]
        if not _compares(having[0], group, column, differences(having[0], group))
    ]


def _compares(
    first: RunGroup, other: RunGroup, column: Column, differences: Sequence[Difference]
) -> bool:
    over = first.domains_of(column)
    if over != other.domains_of(column):
        return False
    if column.kind == "forgetting" and first.first.matrix.seen != other.first.matrix.seen:
        return False
    return all(is_test_comparable(differences, domain) for domain in over)


def _training_differences(differences: Sequence[Difference]) -> list[Difference]:
    return [each for each in differences if each.affects in ("people", "training", "order")]


def _columns(groups: Sequence[RunGroup], every_unseen: bool) -> tuple[Column, ...]:
    columns = [column for group in groups for column in _domain_columns(group)]
    averages = {Column("seen average"): 2, Column("unseen average"): 1, Column("forgetting"): 2}
    chosen = [
        *(column for column in columns if column.kind == "seen"),
        *(
            average
            for average, fewest in averages.items()
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
