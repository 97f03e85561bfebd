"""Finished runs read back from their folders, and put together where they differ by seed alone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.config.run_config import ConfigError, RunConfig, flatten, in_hash, load_config
from runner.results.run_folder import RunStorage, find_run
from tasks.retrieval.metrics import ResultMatrix


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run's folder holds.

    Attributes:
        folder: the run's storage.
        config: its configuration.
        lock: its protocol lock.
        results: what results.json holds.
        matrix: the test scores.
        benchmark: the benchmark's name.
        by_text: whether every domain is searched by text.
    """

    folder: Path
    config: RunConfig
    lock: Mapping[str, Any]
    results: Mapping[str, Any]
    matrix: ResultMatrix
    benchmark: str
    by_text: bool

    @property
    def settings(self) -> str:
        """All that may change its result, except the seed, as text."""
        values = {key: value for key, value in flatten(self.config).items() if in_hash(key)}
        return json.dumps({**values, "seed": None}, sort_keys=True)


@dataclass(frozen=True)
class Column:
    """One number of a lifelong result, after the last domain was learned; `domain` if it has one.

    Forgetting is better when it is lower, everything else when it is higher.
    """

    kind: Literal["seen", "seen average", "unseen average", "forgetting", "unseen"]
    domain: str = ""

    @property
    def name(self) -> str:
        """The domain, or what it is the average of."""
        return self.domain or self.kind


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, and the sample standard deviation where there are several."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ by their seeds alone, under one protocol lock; often a single run."""

    label: str
    members: tuple[FinishedRun, ...]

    @property
    def first(self) -> FinishedRun:
        """The member that speaks for what all have in common."""
        return self.members[0]

    def estimate(self, column: Column, metric: str) -> Estimate | None:
        """The number in percent; None where a member lacks it."""
        values = [_value(member.matrix, column, metric) for member in self.members]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        mean = math.fsum(known) / len(known)
        return Estimate(mean, statistics.stdev(known) if len(known) > 1 else None)

    def domains_of(self, column: Column) -> frozenset[str]:
        """What the number is an average over."""
        return averaged(column, self.first.matrix.seen, self.first.matrix.unseen)


def read_finished(run: str, storage_root: str = "runs") -> FinishedRun:
    """Reads a run, given its folder or its name under `storage_root`.

    Raises:
        FileNotFoundError: there is no such run, or it has no protocol lock.
        ValueError: it is not finished, or a file of it cannot be understood.
    """
    folder = find_run(run, storage_root)
    storage = RunStorage(folder)
    if not storage.results_file.is_file():
        raise ValueError(
            f"{folder} is not finished: it has no results.json. Give the command that began it "
            "again to finish it, or leave it out of the comparison."
        )
    if not storage.lock_file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {storage.lock_file.name}, so nobody knows what it was tested on; "
            "leave it out of the comparison"
        )
    try:
        config = load_config(str(storage.config_file))
        lock, results = (
            json.loads(file.read_text(encoding="utf-8"))
            for file in (storage.lock_file, storage.results_file)
        )
        seen, unseen = (tuple(results["domains"][kind]) for kind in ("seen", "unseen"))
        matrix = ResultMatrix.from_json(results["scores"], seen, unseen)
        benchmark = str(lock["benchmark"])
        of_lock = (tuple(lock["order"]), tuple(lock["unseen"]))
        described = [dict(lock["domains"][name]) for name in seen + unseen]
    except ConfigError as error:
        raise ValueError(f"{folder} is a run that this version cannot read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: results.json or {storage.lock_file.name} is damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    if (seen, unseen) != of_lock:
        raise ValueError(
            f"{folder}: results.json has the domains {', '.join(seen + unseen)}, but "
            f"{storage.lock_file.name} has {', '.join(of_lock[0] + of_lock[1])}; they are not of "
            "one run"
        )
    by_text = all(domain.get("query_by") == "text" for domain in described)
    return FinishedRun(folder, config, lock, results, matrix, benchmark, by_text)


def group_runs(runs: Sequence[FinishedRun]) -> tuple[RunGroup, ...]:
    """Puts runs together that differ by their seeds alone.

    A second run with the same seed (on another machine, say) begins a group of its own: it is no
    further sample.

    Raises:
        ValueError: a run is given twice.
    """
    grouped: dict[tuple[object, ...], list[FinishedRun]] = {}
    num_times: dict[tuple[object, ...], int] = {}
    folders: set[Path] = set()
    for run in runs:
        if run.folder.resolve() in folders:
            raise ValueError(f"{run.folder} is given twice; give it once")
        folders.add(run.folder.resolve())
        alike = (run.settings, json.dumps(run.lock, sort_keys=True))
        repetition = num_times.get((*alike, run.config.seed), 0)
        num_times[*alike, run.config.seed] = repetition + 1
        grouped.setdefault((*alike, repetition), []).append(run)
    return tuple(
        RunGroup(_label(index), tuple(sorted(members, key=lambda member: member.config.seed)))
        for index, members in enumerate(grouped.values())
    )


def averaged(column: Column, seen: tuple[str, ...], unseen: tuple[str, ...]) -> frozenset[str]:
    """The domains that a number is an average over; none if there is no such number."""
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
    owners = matrix.seen if column.kind == "seen" else matrix.unseen
    return (
        matrix.score(metric, matrix.num_steps, column.domain) if column.domain in owners else None
    )


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean, and sample standard deviation of two or more; None if any is missing, or all are."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if not known or len(known) < len(listed):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Estimate(math.fsum(known) / len(known), deviation)
