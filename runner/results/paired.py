"""Differences at equal seeds, with a paired t-test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.results.finished_runs import Column, Estimate, RunGroup, estimate

AVERAGES = ("seen average", "unseen average", "forgetting")


@dataclass(frozen=True)
class PairedDifference:
    """Differences of one score between two methods at equal seeds.

    Attributes:
        by_seed: difference for each seed that both have.
        estimate: mean and sample standard deviation; None without a common seed.
    """

    by_seed: Mapping[int, float]
    estimate: Estimate | None

    @property
    def p_value(self) -> float | None:
        """Two-sided p of the paired t-test that the mean difference is 0.

        None for fewer than two seeds, or if all differences are equal, where t is not defined.
        """
        values = list(self.by_seed.values())
        if len(values) < 2 or max(values) == min(values):
            return None
        from scipy.stats import ttest_1samp  # slow to import

        with warnings.catch_warnings():  # nearly equal differences lose precision
            warnings.simplefilter("ignore", RuntimeWarning)
            result: Any = ttest_1samp(values, 0.0)
        return float(result.pvalue)


def paired_difference(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> PairedDifference:
    """Differences `values - reference` at the seeds where both have a value."""
    by_seed = {
        seed: value - other
        for seed, value in values.items()
        if value is not None and (other := reference.get(seed)) is not None
    }
    return PairedDifference(by_seed, estimate(by_seed.values()))


@dataclass(frozen=True)
class GroupDifference:
    """Paired difference of one score between a group of runs and an earlier one.

    Attributes:
        label: label of the group.
        reference: label of the earlier group.
        column: score.
        metric: metric of the score.
        difference: score of the group minus that of the reference.
    """

    label: str
    reference: str
    column: Column
    metric: str
    difference: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """Unrounded values in percentage points."""
        mean = self.difference.estimate
        return {
            "label": self.label,
            "minus": self.reference,
            "score": self.column.name,
            "metric": self.metric,
            "mean": mean and mean.mean,
            "standard_deviation": mean and mean.deviation,
            "p_value": self.difference.p_value,
            "by_seed": {str(seed): value for seed, value in self.difference.by_seed.items()},
        }


def group_differences(
    groups: Sequence[RunGroup],
    columns: Sequence[Column],
    incomparable: frozenset[tuple[str, Column]],
) -> tuple[GroupDifference, ...]:
    """Paired differences of the groups from the first one with several seeds.

    Only pairs with two common seeds or more are included.

    Args:
        groups: groups of runs that differ only in the seed.
        columns: columns of the comparison. The averages are compared; without one, every column.
        incomparable: (label, column) of scores that do not compare with the first of the column.
    """
    with_seeds = (index for index, group in enumerate(groups) if len(group.members) > 1)
    first = next(with_seeds, len(groups))
    averages = [column for column in columns if column.kind in AVERAGES]
    differences: list[GroupDifference] = []
    for group in groups[first + 1 :]:
        reference = groups[first]
        for column in averages or columns:
            marked = {(each.label, column) for each in (group, reference)} & incomparable
            if marked or not reference.domains_of(column):
                continue
            for metric in ("mAP",) if column.kind == "forgetting" else ("mAP", "R1"):
                values, others = (each.values(column, metric) for each in (group, reference))
                pair = paired_difference(values, others)
                if len(pair.by_seed) > 1:
                    differences.append(
                        GroupDifference(group.label, reference.label, column, metric, pair)
                    )
    return tuple(differences)
