"""A table's numbers: means and deviations over seeds, and differences seed by seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from runner.ablation.cells import Key
from runner.ablation.quantities import Quantities, Quantity, quantities_for, value_of
from runner.ablation.table_file import TableConfig
from runner.results.finished_runs import Estimate, FinishedRun, averaged, estimate
from runner.results.published import PublishedResults
from tasks.protocol.lock_differences import Difference, is_test_comparable, lock_differences

if TYPE_CHECKING:
    from runner.profiling.fusion_cost import FusionCost


@dataclass(frozen=True)
class Published:
    """What a source prints of a row: percent by the names of the table's scores."""

    scores: Mapping[str, float]
    source: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paired:
    """A row minus its reference, seed by seed.

    Attributes:
        by_seed: the difference for each seed that both have finished.
        estimate: its mean and sample standard deviation; None without a seed.
    """

    by_seed: Mapping[int, float]
    estimate: Estimate | None


@dataclass(frozen=True)
class Row:
    """A row of the table with its finished runs by seed."""

    name: str
    label: str
    runs: Mapping[int, FinishedRun]
    published: Published | None = None

    def values(self, quantity: Quantity) -> dict[int, float | None]:
        """The number by seed; None where a run lacks it."""
        return {seed: value_of(run, quantity) for seed, run in self.runs.items()}

    def estimate(self, quantity: Quantity) -> Estimate | None:
        """Mean and deviation over the finished seeds; None where a run lacks the number."""
        return estimate(self.values(quantity).values())


@dataclass(frozen=True)
class Failure:
    """A cell that ended without a result in this start of the command."""

    row: str
    seed: int
    error: str


@dataclass(frozen=True)
class TableSummary:
    """What is known of a table.

    Attributes:
        name: the table's.
        table: its definition.
        seeds: that were asked for.
        settings: what was asked for besides: preset kind and overrides.
        rows: in the table's order; those without a finished run too.
        failures: of this start.
        costs: by row, if the table asks for them and they are known.
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
        """What is shown: another choice where all runs are over one domain."""
        kinds = {
            (len(run.matrix.seen), len(run.matrix.unseen)): run.results["domains"]
            for _, run in self.runs
        }
        # Where rows differ, the averages are what they have in common.
        common = next(iter(kinds.values())) if len(kinds) == 1 else None
        return quantities_for(self.table.checkpoint, common)

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def reference(self, row: Row) -> Row | None:
        """What a row is compared with."""
        name = self.table.reference_of(row.name)
        return self.row(name) if name else None

    def paired(self, row: Row, quantity: Quantity) -> Paired:
        """The row minus its reference, over the seeds that both have finished.

        Empty where the two were tested on other images or average over other domains.
        """
        reference = self.reference(row)
        if reference is None:
            return Paired({}, None)
        mine, theirs = row.values(quantity), reference.values(quantity)
        by_seed = {
            seed: mine_value - their_value
            for seed in self.seeds
            if (mine_value := mine.get(seed)) is not None
            and (their_value := theirs.get(seed)) is not None
            and _compares(row.runs[seed], reference.runs[seed], quantity)
        }
        return Paired(by_seed, estimate(by_seed.values()))

    @property
    def runs(self) -> list[tuple[Key, FinishedRun]]:
        """Every finished run with its row and seed."""
        return [((row.name, seed), run) for row in self.rows for seed, run in row.runs.items()]

    @property
    def missing(self) -> list[Key]:
        """Rows and seeds without a finished run."""
        return [
            (row.name, seed) for seed in self.seeds for row in self.rows if seed not in row.runs
        ]

    @cached_property
    def locks(self) -> dict[str, str]:
        """SHA-256 of every protocol lock, with the rows that were run under it."""
        rows: dict[str, dict[str, None]] = {}
        for (name, _), run in self.runs:
            rows.setdefault(lock_hash(run.lock), {})[name] = None
        return {digest: ", ".join(names) for digest, names in rows.items()}

    @cached_property
    def lock_differences(self) -> list[Difference]:
        """In what the locks of the finished runs differ."""
        locks = {lock_hash(run.lock): run.lock for _, run in self.runs}
        if len(locks) < 2:
            return []
        return lock_differences({f"[{self.locks[each]}]": lock for each, lock in locks.items()})

    @property
    def varies_data(self) -> bool:
        """Whether rows are meant to differ in their data or order."""
        return any(
            key.startswith("benchmark.") for row in self.table.rows.values() for key in row.set
        )

    @property
    def revisions(self) -> dict[str, int]:
        """Finished runs by the revision of the code that made them."""
        found: dict[str, int] = {}
        for _, run in self.runs:
            revision = str(run.results.get("git_revision") or "unknown")
            found[revision] = found.get(revision, 0) + 1
        return found


def summarise(
    name: str,
    table: TableConfig,
    seeds: Sequence[int],
    settings: Sequence[str],
    finished: Mapping[Key, FinishedRun],
    literature: PublishedResults,
    failures: Sequence[Failure] = (),
) -> TableSummary:
    """Puts a table's finished runs into rows.

    Args:
        name: the table's.
        table: its definition.
        seeds: that were asked for.
        settings: overrides and flags, in words.
        finished: runs by row and seed; others may be missing.
        literature: where `published_method` is looked up.
        failures: cells that failed.
    """
    rows: list[Row] = []
    for row, config in table.rows.items():
        runs = {seed: finished[row, seed] for seed in seeds if (row, seed) in finished}
        published = _published(table, row, runs, literature)
        rows.append(Row(row, config.label or row, runs, published))
    return TableSummary(name, table, tuple(seeds), tuple(settings), tuple(rows), tuple(failures))


def lock_hash(lock: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol lock's content."""
    return hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()


def _compares(one: FinishedRun, other: FinishedRun, quantity: Quantity) -> bool:
    """Whether two runs' numbers are over the same domains, ranked alike."""
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
    own = table.published
    if own is not None and row in own.rows:
        scores = {str(name): value for name, value in own.rows[row].items()}
        return Published(scores, own.source, (own.remark,) if own.remark else ())
    method = table.rows[row].published_method
    if method is None or not runs:
        return None
    run = next(iter(runs.values()))
    for found in literature.of(run.benchmark, run.matrix.seen):
        if found.method == method:
            alone = found.domains.get(found.order[0], {}) if len(found.order) == 1 else {}
            scores = _averages("seen", found.seen_average or alone)
            scores |= _averages("unseen", found.unseen_average)
            remarks = tuple(literature.remarks[key] for key in found.remarks)
            backbone = found.backbone or "backbone not stated"
            return Published(scores, literature.sources[found.source], (backbone, *remarks))
    return None


def _averages(kind: Literal["seen", "unseen"], scores: Mapping[Any, float]) -> dict[str, float]:
    return {f"{kind}_{metric}": value for metric, value in scores.items()}
