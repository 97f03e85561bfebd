"""Summary of an ablation table: means and deviations over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from runner.ablation.cells import Key
from runner.ablation.quantities import Quantities, Quantity, quantities_for, value_of
from runner.ablation.table_file import TableConfig
from runner.results.finished_runs import Estimate, FinishedRun, averaged, estimate
from runner.results.paired import PairedDifference, paired_difference
from runner.results.published import PublishedResults
from tasks.protocol.lock import lock_hash
from tasks.protocol.lock_differences import Difference, is_test_comparable, lock_differences

if TYPE_CHECKING:
    from runner.profiling.fusion_cost import FusionCost


@dataclass(frozen=True)
class Published:
    """Published scores of a row, in percent by the names of the table's scores."""

    scores: Mapping[str, float]
    source: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Row of the table with its finished runs by seed."""

    name: str
    label: str
    runs: Mapping[int, FinishedRun]
    published: Published | None = None

    @property
    def seeds(self) -> str:
        """Finished seeds, such as `0,1,2`."""
        return ",".join(map(str, self.runs))

    def values(self, quantity: Quantity) -> dict[int, float | None]:
        """Value of each run by seed; None if a run does not have it."""
        return {seed: value_of(run, quantity) for seed, run in self.runs.items()}

    def estimate(self, quantity: Quantity) -> Estimate | None:
        """Mean and deviation over the finished seeds; None if a run does not have the value."""
        return estimate(self.values(quantity).values())


@dataclass(frozen=True)
class Failure:
    """Cell that failed in this execution of the command."""

    row: str
    seed: int
    error: str


@dataclass(frozen=True)
class TableSummary:
    """Results of a table.

    Attributes:
        name: name of the table.
        table: definition of the table.
        seeds: requested seeds.
        settings: flags and overrides of the command that change results.
        rows: all rows in the order of the table, also those without finished runs.
        failures: failed cells of this execution.
        costs: fusion costs by row; empty if the table does not measure them.
    """

    name: str
    table: TableConfig
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    costs: Mapping[str, FusionCost] = field(default_factory=dict)

    @cached_property
    def quantities(self) -> Quantities:
        """Quantities to show, which depend on whether all runs have a single domain."""
        kinds = {
            (len(run.matrix.seen), len(run.matrix.unseen)): run.results["domains"]
            for _, run in self.runs
        }
        # If rows have different domains, only averages are comparable.
        common = next(iter(kinds.values())) if len(kinds) == 1 else None
        return quantities_for(self.table.checkpoint, common)

    def row(self, name: str) -> Row:
        """Row with this name."""
        return next(row for row in self.rows if row.name == name)

    def reference(self, row: Row) -> Row | None:
        """Row that `row` is compared with; None for the reference itself."""
        name = self.table.reference_of(row.name)
        return self.row(name) if name else None

    def paired(self, row: Row, quantity: Quantity) -> PairedDifference:
        """Differences from the reference over the seeds that both have finished.

        Excludes pairs of runs that were tested on different images or average over different
        domains.
        """
        reference = self.reference(row)
        if reference is None:
            return PairedDifference({}, None)
        values, reference_values = row.values(quantity), reference.values(quantity)
        comparable = {
            seed: values.get(seed)
            for seed in self.seeds
            if seed in row.runs
            and seed in reference.runs
            and _is_comparable(row.runs[seed], reference.runs[seed], quantity)
        }
        return paired_difference(comparable, reference_values)

    @property
    def runs(self) -> list[tuple[Key, FinishedRun]]:
        """All finished runs with row and seed."""
        return [((row.name, seed), run) for row in self.rows for seed, run in row.runs.items()]

    @property
    def has_equal_seeds(self) -> bool:
        """Whether all rows with finished runs have the same seeds."""
        return len({row.seeds for row in self.rows if row.runs}) < 2

    @property
    def missing(self) -> list[Key]:
        """Rows and seeds without a finished run."""
        return [
            (row.name, seed) for seed in self.seeds for row in self.rows if seed not in row.runs
        ]

    @cached_property
    def locks(self) -> dict[str, str]:
        """Rows by the SHA-256 of their protocol lock."""
        rows: dict[str, dict[str, None]] = {}
        for (name, _), run in self.runs:
            rows.setdefault(lock_hash(run.lock), {})[name] = None
        return {digest: ", ".join(names) for digest, names in rows.items()}

    @cached_property
    def lock_differences(self) -> list[Difference]:
        """Differences between the protocol locks of the finished runs."""
        locks = {lock_hash(run.lock): run.lock for _, run in self.runs}
        if len(locks) < 2:
            return []
        return lock_differences({f"[{self.locks[each]}]": lock for each, lock in locks.items()})

    @property
    def varies_data(self) -> bool:
        """Whether rows differ in data or order on purpose."""
        return any(
            key.startswith("benchmark.") for row in self.table.rows.values() for key in row.set
        )

    @property
    def revisions(self) -> dict[str, int]:
        """Number of finished runs by git revision of the code."""
        counts: dict[str, int] = {}
        for _, run in self.runs:
            revision = str(run.results.get("git_revision") or "unknown")
            counts[revision] = counts.get(revision, 0) + 1
        return counts


def summarise(
    name: str,
    table: TableConfig,
    seeds: Sequence[int],
    settings: Sequence[str],
    finished: Mapping[Key, FinishedRun],
    literature: PublishedResults,
    failures: Sequence[Failure] = (),
) -> TableSummary:
    """Collects the finished runs of a table in rows.

    Args:
        name: name of the table.
        table: definition of the table.
        seeds: requested seeds.
        settings: flags and overrides of the command that change results.
        finished: finished runs by row and seed.
        literature: published results in which `published_method` is looked up.
        failures: failed cells.
    """
    rows: list[Row] = []
    for row, config in table.rows.items():
        runs = {seed: finished[row, seed] for seed in seeds if (row, seed) in finished}
        published = _published(table, row, runs, literature)
        rows.append(Row(row, config.label or row, runs, published))
    return TableSummary(name, table, tuple(seeds), tuple(settings), tuple(rows), tuple(failures))


def _is_comparable(one: FinishedRun, other: FinishedRun, quantity: Quantity) -> bool:
    """Whether a quantity of two runs is over the same domains and the same rankings."""
    column = quantity.column
    if column is None or lock_hash(one.lock) == lock_hash(other.lock):
        return True
    domains = [averaged(column, run.matrix.seen, run.matrix.unseen) for run in (one, other)]
    if domains[0] != domains[1]:
        return False
    if column.kind == "forgetting" and one.matrix.seen != other.matrix.seen:
        return False
    differences = lock_differences({"one": one.lock, "other": other.lock})
    return all(is_test_comparable(differences, domain) for domain in domains[0])


def _published(
    table: TableConfig, row: str, runs: Mapping[int, FinishedRun], literature: PublishedResults
) -> Published | None:
    published = table.published
    if published is not None and row in published.rows:
        scores = {str(name): value for name, value in published.rows[row].items()}
        remarks = (published.remark,) if published.remark else ()
        return Published(scores, published.source, remarks)
    method = table.rows[row].published_method
    if method is None or not runs:
        return None
    run = next(iter(runs.values()))
    for result in literature.of(run.benchmark, run.matrix.seen):
        if result.method == method:
            single = result.domains.get(result.order[0], {}) if len(result.order) == 1 else {}
            scores = _averages("seen", result.seen_average or single)
            scores |= _averages("unseen", result.unseen_average)
            remarks = tuple(literature.remarks[key] for key in result.remarks)
            backbone = result.backbone or "backbone not stated"
            return Published(scores, literature.sources[result.source], (backbone, *remarks))
    return None


def _averages(kind: Literal["seen", "unseen"], scores: Mapping[Any, float]) -> dict[str, float]:
    return {f"{kind}_{metric}": value for metric, value in scores.items()}
