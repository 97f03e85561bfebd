"""Records of a sweep's trials: one small file for each trial, written only by the driver.

`<sweep>/trials/<number>/trial.json` holds a `TrialRecord`; the runs of the trial are folders next
to it. Console, tables, figures and MLflow read these files and no files of Ray Tune.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runner.results.run_folder import write_atomically

State = Literal["running", "finished", "stopped", "failed"]
"""`stopped`: by the scheduler, before the last domain. `failed`: by an error, see `reason`."""


@dataclass(frozen=True)
class Report:
    """Scores of a trial after a domain.

    Attributes:
        learned_domains: number of domains learned so far, over the runs of all seeds.
        domain: name of the last learned domain.
        validation: scores on validation identities in percent, by their names in
            `ResultMatrix.summary`; includes the objectives.
        test: the same scores on test identities; recorded, but not used by the search.
        seconds: duration of the trial so far, over all its starts.
    """

    learned_domains: int
    domain: str
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None]
    seconds: float


@dataclass(frozen=True)
class TrialRecord:
    """State of one trial.

    Attributes:
        number: number of the trial in the Optuna study, from 0.
        values: sampled values by configuration path; without conditional parameters that do not
            apply.
        state: `running`, or how the trial ended.
        reports: ordered by the number of learned domains.
        began: Unix time of the first start.
        ended: Unix time of the end.
        reason: error of a failed trial.
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
        """Newest report."""
        return self.reports[-1] if self.reports else None

    @property
    def learned_domains(self) -> int:
        """Number of domains learned so far, over the runs of all seeds."""
        return self.reports[-1].learned_domains if self.reports else 0

    def with_report(self, report: Report) -> TrialRecord:
        """Returns the record with `report` added; replaces one of as many learned domains."""
        others = [each for each in self.reports if each.learned_domains != report.learned_domains]
        ordered = sorted([*others, report], key=lambda each: each.learned_domains)
        return replace(self, reports=tuple(ordered))


def trial_folder(sweep: Path, number: int) -> Path:
    """Folder of a trial's record and runs."""
    return sweep / "trials" / f"{number:04d}"


def write_record(sweep: Path, record: TrialRecord) -> None:
    """Writes trial.json atomically."""
    folder = trial_folder(sweep, record.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "trial.json", json.dumps(asdict(record), indent=1))


def read_records(sweep: Path) -> list[TrialRecord]:
    """Reads the records of all trials, ordered by number."""
    files = sorted(sweep.glob("trials/*/trial.json"))
    return sorted((_read(file) for file in files), key=lambda each: each.number)


def _read(file: Path) -> TrialRecord:
    values = json.loads(file.read_text(encoding="utf-8"))
    reports = tuple(Report(**each) for each in values.pop("reports"))
    return TrialRecord(**values, reports=reports)
