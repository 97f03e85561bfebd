"""Compares finished runs: differences of their protocols, and which scores are comparable."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from runner.results.finished_runs import (
    Checkpoint,
    Column,
    FinishedRun,
    RunGroup,
    averaged,
    group_runs,
)
from runner.results.paired import GroupDifference, group_differences
from runner.results.published import PublishedResults, PublishedRow
from runner.results.setting_differences import setting_differences
from tasks.protocol.lock_differences import Difference, is_test_comparable, lock_differences
from tasks.retrieval.metrics import METRICS

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Comparison:
    """Comparison of groups of runs.

    Attributes:
        groups: groups in the order of their first runs; empty if only published results are shown.
        differences: differences of their protocol locks.
        columns: scores that at least one group has, or a benchmark that was asked for.
        published: published rows of the groups' benchmarks, and of those that were asked for.
        literature: source of the published rows.
        incomparable: (label, column) of scores not comparable with the first of the column.
        trained_otherwise: by label, differences from the training data of `reference_of`.
        settings: settings that differ, with the value of each group; see `setting_differences`.
        paired: differences from the first group at equal seeds.
    """

    groups: tuple[RunGroup, ...]
    differences: list[Difference]
    columns: tuple[Column, ...]
    published: tuple[PublishedRow, ...]
    literature: PublishedResults
    incomparable: frozenset[tuple[str, Column]]
    trained_otherwise: Mapping[str, list[Difference]]
    settings: Mapping[str, tuple[Any, ...]]
    paired: tuple[GroupDifference, ...]

    @property
    def by_text(self) -> bool:
        """Whether all domains have text queries."""
        return all(group.first.by_text for group in self.groups) and all(
            row.by_text for row in self.published
        )

    @property
    def group_rows(self) -> list[list[RunGroup]]:
        """Groups in one row of the table: one method on several data sets, each learned alone."""

        def method(group: RunGroup) -> Hashable:
            is_alone = group.first.learns_one_data_set
            return (group.first.settings_of_method, group.checkpoint) if is_alone else None

        return _rows(self.groups, method, lambda group: group.first.matrix.seen)

    @property
    def published_rows(self) -> list[list[PublishedRow]]:
        """Published rows in one row of the table, as in `group_rows`."""

        def method(row: PublishedRow) -> Hashable:
            return (row.method, row.backbone, row.source) if row.learns_one_data_set else None

        return _rows(self.published, method, lambda row: row.order)

    @property
    def ranked_otherwise(self) -> list[RunGroup]:
        """Groups without published rows because they do not use the standard ranking."""
        shown = {row.benchmark for row in self.published}
        return [
            group
            for group in self.groups
            if group.ranking
            and group.first.benchmark not in shown
            and self.literature.of(group.first.benchmark, group.first.matrix.seen)
        ]

    def reference_of(self, group: RunGroup) -> RunGroup:
        """Reference for training data: see `_reference`."""
        return _reference(self.groups, group)

    def first_with(self, column: Column) -> RunGroup | None:
        """First group with a score in this column, the reference for comparability."""
        return next((group for group in self.groups if group.domains_of(column)), None)

    def published_compares(self, row: PublishedRow, column: Column) -> bool:
        """Whether a published score has the domains and ranking of the first of the column.

        True if the row has no score in the column, or no run has one.
        """
        first = self.first_with(column)
        if first is None or not row.scores_in(column):
            return True
        domains = averaged(column, row.order, row.unseen)
        return domains == first.domains_of(column) and not first.ranking

    def is_marked(self, column: Column) -> bool:
        """Whether a score in the column does not compare with the first of the column."""
        return any(each == column for _, each in self.incomparable) or not all(
            self.published_compares(row, column) for row in self.published
        )

    def to_json(self) -> dict[str, Any]:
        """Groups with unrounded scores, differences, and published rows with their sources."""
        labels = [group.label for group in self.groups]
        return {
            "differing_settings": {
                key: dict(zip(labels, values, strict=True)) for key, values in self.settings.items()
            },
            "runs": [self._group_json(group) for group in self.groups],
            "paired": [each.to_json() for each in self.paired],
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
            "checkpoint": group.checkpoint,
            "members": [
                {
                    "name": member.folder.name,
                    "folder": str(member.folder),
                    "seed": member.config.seed,
                    "epoch": member.epoch,
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
    runs: Sequence[FinishedRun],
    literature: PublishedResults,
    *,
    every_unseen: bool = False,
    checkpoint: Checkpoint = "validation",
    benchmarks: Sequence[str] = (),
) -> Comparison:
    """Groups runs over seeds and determines which scores are comparable.

    Args:
        runs: runs to compare; may be empty if there are benchmarks.
        literature: published results.
        every_unseen: include a column per unseen domain in addition to their average.
        checkpoint: validation: scores of the epoch selected on validation identities, for groups
            that have selected one; last: of the end of training.
        benchmarks: benchmarks whose published results are shown in any case.

    Raises:
        ValueError: a run is given twice, or a benchmark has no published results.
    """
    groups = group_runs(runs)
    if checkpoint == "validation":
        groups = tuple(group.at_selected_epoch() for group in groups)
    differences = _cached_differences()
    own = _published(groups, literature)
    requested = [row for name in benchmarks for row in literature.of_benchmark(name)]
    columns = _columns(groups, requested, every_unseen)
    trained_otherwise = {
        group.label: _training_differences(differences(_reference(groups, group), group))
        for group in groups
    }
    incomparable = frozenset(
        (label, column)
        for column in columns
        for label in _incomparable(groups, column, differences)
    )
    return Comparison(
        groups=groups,
        differences=_shown_differences(groups),
        columns=columns,
        published=(*own, *(row for row in requested if row not in own)),
        literature=literature,
        incomparable=incomparable,
        trained_otherwise={label: each for label, each in trained_otherwise.items() if each},
        settings=setting_differences([group.first.config for group in groups]),
        paired=group_differences(groups, columns, incomparable),
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


def _columns(
    groups: Sequence[RunGroup], requested: Sequence[PublishedRow], every_unseen: bool
) -> tuple[Column, ...]:
    columns = [column for group in groups for column in _domain_columns(group)]
    columns += [Column("seen", domain) for row in requested for domain in row.domains]
    min_domains = {Column("seen average"): 2, Column("unseen average"): 1, Column("forgetting"): 2}
    averages = {
        Column("seen average"): any(row.seen_average for row in requested),
        Column("unseen average"): any(row.unseen_average for row in requested),
        Column("forgetting"): False,
    }
    chosen = [
        *(column for column in columns if column.kind == "seen"),
        *(
            average
            for average, fewest in min_domains.items()
            if averages[average]
            or any(len(group.domains_of(average)) >= fewest for group in groups)
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
    """Rows of the benchmarks of all groups with the standard ranking, which the papers use."""
    standard = [group.first for group in groups if not group.ranking]
    learned = dict.fromkeys((run.benchmark, run.matrix.seen) for run in standard)
    return tuple(row for benchmark, order in learned for row in literature.of(benchmark, order))


def _reference(groups: Sequence[RunGroup], group: RunGroup) -> RunGroup:
    """First group; if every group learned one data set, the first that learned the same one."""
    if not all(each.first.learns_one_data_set for each in groups):
        return groups[0]
    return next(each for each in groups if each.first.matrix.seen == group.first.matrix.seen)


def _shown_differences(groups: Sequence[RunGroup]) -> list[Difference]:
    """Differences between all locks, without the names of data sets that are learned alone."""
    differences = lock_differences({group.label: group.first.lock for group in groups})
    if not all(group.first.learns_one_data_set for group in groups):
        return differences
    names = {"benchmark", "order"}
    return [each for each in differences if {path.partition(".")[0] for path in each.paths} - names]


def _rows(
    entries: Iterable[_Entry],
    method_of: Callable[[_Entry], Hashable],
    domains_of: Callable[[_Entry], tuple[str, ...]],
) -> list[list[_Entry]]:
    """Collects entries of one method with different domains; method None is never collected."""
    rows: list[list[_Entry]] = []
    for entry in entries:
        method, domains = method_of(entry), domains_of(entry)
        for row in rows:
            is_free = all(domains_of(each) != domains for each in row)
            if method is not None and method_of(row[0]) == method and is_free:
                row.append(entry)
                break
        else:
            rows.append([entry])
    return rows


def _estimates_json(group: RunGroup, column: Column) -> dict[str, dict[str, float | None] | None]:
    estimates = {metric: group.estimate(column, metric) for metric in METRICS}
    return {
        metric: estimate and {"mean": estimate.mean, "standard_deviation": estimate.deviation}
        for metric, estimate in estimates.items()
    }
