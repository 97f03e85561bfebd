"""What is known of a sweep's trials: one small file each, written by the driver alone.

`<sweep>/trials/<number>/trial.json` holds a `TrialRecord`; the folder beside it holds the trial's
ordinary run. Screen, tables, pictures and MLflow read these files and nothing of Tune's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runner.results.run_folder import write_atomically

State = Literal["running", "finished", "stopped", "failed"]
"""Stopped: by the scheduler, before its last domain. Failed: with a reason."""


@dataclass(frozen=True)
class Report:
    """What a trial knew after a domain.

    Attributes:
        learned_domains: learned so far; with several seeds, those of all its runs together.
        domain: name of the last one.
        validation: scores on validation identities by their names in `ResultMatrix.summary`; the
            objectives are among them.
        test: the same on test identities: recorded, never looked at by the search.
        seconds: of this trial's own time, over all its starts.
    """

    learned_domains: int
    domain: str
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None]
    seconds: float


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Optuna's, from 0 on.
        values: sampled values by configuration path; conditional ones that do not apply are absent.
        state: how it ended, or that it has not.
        reports: in the order of learned domains.
        began: Unix time of the first start.
        ended: Unix time of the end.
        reason: why it failed.
    """

    number: int
    values: Mapping[str, Any]
    state: State = "running"
    reports: tuple[Report, ...] = ()
    began: float | None = None
    ended: float | None = None
    reason: str | None = None

    @property
    def last(self) -> Report | None:
        """The newest report."""
        return self.reports[-1] if self.reports else None

    def with_report(self, report: Report) -> TrialRecord:
        """The record with one more report; one of as many learned domains is replaced."""
        others = [each for each in self.reports if each.learned_domains != report.learned_domains]
        ordered = sorted([*others, report], key=lambda each: each.learned_domains)
        return replace(self, reports=tuple(ordered))


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial's record and run are kept."""
    return sweep / "trials" / f"{number:04d}"


def write_record(sweep: Path, record: TrialRecord) -> None:
    """trial.json, whole or not at all."""
    folder = trial_folder(sweep, record.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "trial.json", json.dumps(asdict(record), indent=1))


def read_records(sweep: Path) -> list[TrialRecord]:
    """All trials of a sweep, by number."""
    files = sorted(sweep.glob("trials/*/trial.json"))
    return sorted((_read(file) for file in files), key=lambda each: each.number)


def _read(file: Path) -> TrialRecord:
    values = json.loads(file.read_text(encoding="utf-8"))
    reports = tuple(Report(**each) for each in values.pop("reports"))
    return TrialRecord(**values, reports=reports)
