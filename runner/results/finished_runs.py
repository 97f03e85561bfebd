"""Reads finished runs from their folders and groups runs that differ only in the seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runner.config.json_files import DamagedFileError
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.results.run_folder import RunStorage
from runner.results.run_lookup import find_run
from tasks.protocol.lock import has_contents, without_contents
from tasks.retrieval.metrics import METRICS, ResultMatrix

Checkpoint = Literal["last", "validation"]
"""Scores at the end of training, or of the epoch selected on validation identities."""


@dataclass(frozen=True)
class FinishedRun:
    """Content of a finished run's folder.

    Attributes:
        folder: run folder.
        config: configuration of the run.
        lock: protocol lock of the run.
        results: content of results.json.
        matrix: test scores.
        benchmark: name of the benchmark.
        by_text: whether all domains have text queries.
        epoch: epoch of the scores if it was selected on validation identities; None for the end of
            training.
    """

    folder: Path
    config: RunConfig
    lock: Mapping[str, Any]
    results: Mapping[str, Any]
    matrix: ResultMatrix
    benchmark: str
    by_text: bool
    epoch: int | None = None

    @property
    def settings(self) -> str:
        """All settings that affect the results, except the seed, as JSON."""
        return json.dumps(self._settings, sort_keys=True)

    @property
    def settings_of_method(self) -> str:
        """The same without the section `benchmark`: equal for one method on several data sets."""
        values = self._settings.items()
        kept = {key: value for key, value in values if not key.startswith("benchmark.")}
        return json.dumps(kept, sort_keys=True)

    @property
    def _settings(self) -> dict[str, Any]:
        return {**self.config.effective_settings, "seed": None}

    @property
    def learns_one_data_set(self) -> bool:
        """Whether the run learned and was tested on a single domain."""
        return len(self.matrix.seen) == 1 and not self.matrix.unseen

    @property
    def selection(self) -> Mapping[str, Any] | None:
        """Entry of results.json for the epoch selected on validation identities, if any."""
        return (self.results.get("selection") or {}).get("validation")

    def at_selected_epoch(self) -> FinishedRun:
        """The run with the test scores of its selected epoch; unchanged if it has none.

        Unseen domains are not scored at that epoch, so their scores are missing.

        Raises:
            ValueError: the entry in results.json is damaged.
        """
        if self.selection is None:
            return self
        try:
            matrix = ResultMatrix.from_json(
                self.results["scores"], self.matrix.seen, self.matrix.unseen
            )
            for domain in (*matrix.seen, *matrix.unseen):
                matrix.record(matrix.num_steps, domain, dict.fromkeys(METRICS, math.nan))
            test = self.selection["test"].items()
            scores = {name: math.nan if value is None else value for name, value in test}
            matrix.record(matrix.num_steps, self.results["selection"]["domain"], scores)
            return replace(self, matrix=matrix, epoch=int(self.selection["epoch"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.folder}: expected the epoch and test scores of selection.validation in "
                f"results.json, got a damaged entry ({type(error).__name__}: {error}); use "
                "--checkpoint last"
            ) from error


@dataclass(frozen=True)
class Column:
    """Column of a comparison: one score after the last domain, of one `domain` or an average.

    Lower is better for forgetting, higher is better for all others.
    """

    kind: Literal["seen", "seen average", "unseen average", "forgetting", "unseen"]
    domain: str = ""

    @property
    def name(self) -> str:
        """Name of the domain or of the average."""
        return self.domain or self.kind


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, and sample standard deviation if there are several seeds."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class RunGroup:
    """Runs under one protocol lock that differ only in their seeds; often a single run."""

    label: str
    members: tuple[FinishedRun, ...]

    @property
    def first(self) -> FinishedRun:
        """Representative member, for everything that the members share."""
        return self.members[0]

    @property
    def checkpoint(self) -> Checkpoint:
        """Checkpoint of the scores."""
        return "last" if self.first.epoch is None else "validation"

    @property
    def ranking(self) -> str:
        """What differs from the standard ranking: "re-ranking", a protocol, or ""."""
        if self.first.lock.get("reranking") is not None:
            return "re-ranking"
        protocol = str(self.first.lock.get("evaluation_protocol", "standard"))
        return "" if protocol == "standard" else protocol.replace("_", " ")

    def at_selected_epoch(self) -> RunGroup:
        """The group at the selected epoch of each member; unchanged if a member has none."""
        if any(member.selection is None for member in self.members):
            return self
        return replace(self, members=tuple(each.at_selected_epoch() for each in self.members))

    def estimate(self, column: Column, metric: str) -> Estimate | None:
        """Estimate in percent; None if a member lacks the score."""
        return estimate(self.values(column, metric).values())

    def values(self, column: Column, metric: str) -> dict[int, float | None]:
        """Score of each member in percent, by seed."""
        return {
            member.config.seed: _value(member.matrix, column, metric) for member in self.members
        }

    def domains_of(self, column: Column) -> frozenset[str]:
        """Domains over which the score is averaged."""
        return averaged(column, self.first.matrix.seen, self.first.matrix.unseen)


def read_finished(run: str, storage_root: str = "runs") -> FinishedRun:
    """Reads a run, given its folder or its name under `storage_root`.

    Raises:
        FileNotFoundError: the run or its protocol lock does not exist.
        ValueError: the run is not finished, or one of its files is damaged.
    """
    folder = find_run(run, storage_root)
    storage = RunStorage(folder)
    if not storage.results_file.is_file():
        raise ValueError(
            f"{folder} is not finished: it has no results.json; repeat the command that started "
            "it to finish it, or omit it from the comparison"
        )
    if not storage.lock_file.is_file():
        raise FileNotFoundError(
            f"{folder}: expected {storage.lock_file.name}, which records the test data, got no "
            "file; omit the run from the comparison"
        )
    try:
        config = load_config(str(storage.config_file))
        lock, results = storage.lock(), storage.results() or {}
        seen, unseen = (tuple(results["domains"][kind]) for kind in ("seen", "unseen"))
        matrix = ResultMatrix.from_json(results["scores"], seen, unseen)
        benchmark = str(lock["benchmark"])
        of_lock = (tuple(lock["order"]), tuple(lock["unseen"]))
        described = [dict(lock["domains"][name]) for name in seen + unseen]
    except ConfigError as error:
        raise ValueError(f"{folder}: this version cannot read the run: {error}") from error
    except DamagedFileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: results.json or {storage.lock_file.name} is damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    if (seen, unseen) != of_lock:
        raise ValueError(
            f"{folder}: results.json has the domains {', '.join(seen + unseen)}, but "
            f"{storage.lock_file.name} has {', '.join(of_lock[0] + of_lock[1])}; they belong to "
            "different runs"
        )
    by_text = all(domain.get("query_by") == "text" for domain in described)
    return FinishedRun(folder, config, lock, results, matrix, benchmark, by_text)


def group_runs(runs: Sequence[FinishedRun]) -> tuple[RunGroup, ...]:
    """Groups runs that differ only in their seeds.

    A second run with the same seed (for example on another machine) is not another sample and
    starts a new group.

    Raises:
        ValueError: a run is given twice.
    """
    grouped: dict[tuple[object, ...], list[FinishedRun]] = {}
    num_times: dict[tuple[object, ...], int] = {}
    folders: set[Path] = set()
    # Older locks have no contents of files; they must not separate seeds of the same data.
    all_contents = all(has_contents(run.lock) for run in runs)
    for run in runs:
        if run.folder.resolve() in folders:
            raise ValueError(f"{run.folder} is given twice; give it once")
        folders.add(run.folder.resolve())
        lock = run.lock if all_contents else without_contents(run.lock)
        key = (run.settings, json.dumps(lock, sort_keys=True))
        repetition = num_times.get((*key, run.config.seed), 0)
        num_times[*key, run.config.seed] = repetition + 1
        grouped.setdefault((*key, repetition), []).append(run)
    return tuple(
        RunGroup(_label(index), tuple(sorted(members, key=lambda member: member.config.seed)))
        for index, members in enumerate(grouped.values())
    )


def averaged(column: Column, seen: tuple[str, ...], unseen: tuple[str, ...]) -> frozenset[str]:
    """Domains over which a score is averaged; empty if the score does not exist."""
    domains = frozenset(unseen if column.kind.startswith("unseen") else seen)
    if column.kind == "forgetting" and len(seen) < 2:
        return frozenset()
    return domains & {column.domain} if column.domain else domains


def _label(index: int) -> str:
    """A to Z, then AA, AB, ..."""
    letter = chr(ord("A") + index % 26)
    return letter if index < 26 else _label(index // 26 - 1) + letter


def _value(matrix: ResultMatrix, column: Column, metric: str) -> float | None:
    if column.kind == "forgetting":
        return matrix.forgetting(metric)
    if column.kind == "seen average":
        return matrix.seen_average(metric)
    if column.kind == "unseen average":
        return matrix.unseen_average(metric)
    domains = matrix.seen if column.kind == "seen" else matrix.unseen
    if column.domain not in domains:
        return None
    return matrix.score(metric, matrix.num_steps, column.domain)


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and sample standard deviation of the values; None if any is missing or there is none."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if not known or len(known) < len(listed):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Estimate(math.fsum(known) / len(known), deviation)
