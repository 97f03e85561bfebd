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


PROGRESS = "progress"
"""Key of `Report.progress` in the results that Ray Tune passes to scheduler and searcher."""


@dataclass(frozen=True)
class Report:
    """Scores of a trial after a domain, or after a candidate epoch of a single domain.

    Attributes:
        learned_domains: number of domains learned so far, over the runs of all seeds.
        domain: name of the last learned domain, or of the domain that is being learned.
        validation: scores on validation identities in percent, by their names in
            `ResultMatrix.summary`; includes the objectives.
        test: the same scores on test identities; recorded, but not used by the search.
        seconds: duration of the trial so far, over all its starts.
        epochs: epochs done of the last stage, over the runs of all seeds; None if the trial reports
            after domains.
        planned_epochs: the same for a complete trial.
    """

    learned_domains: int
    domain: str
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None]
    seconds: float
    epochs: int | None = None
    planned_epochs: int | None = None

    @property
    def progress(self) -> int:
        """Number of epochs if the trial reports after epochs, otherwise of learned domains.

        Trials are compared at equal progress.
        """
        return self.learned_domains if self.epochs is None else self.epochs

    def reached(self, num_domains: int) -> str:
        """Progress and its value for a complete trial, such as "2/4" (of `num_domains`)."""
        total = num_domains if self.epochs is None else self.planned_epochs
        return f"{self.progress}/{total}"


@dataclass(frozen=True)
class TrialRecord:
    """State of one trial.

    Attributes:
        number: number of the trial in the Optuna study, from 0.
        values: sampled values by configuration path; without conditional parameters that do not
            apply.
        state: `running`, or how the trial ended.
        reports: ordered by their progress.
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

    @property
    def progress(self) -> int:
        """Progress of the newest report; 0 without one."""
        return self.reports[-1].progress if self.reports else 0

    def with_report(self, report: Report) -> TrialRecord:
        """Returns the record with `report` added; replaces one of equal progress."""
        others = [each for each in self.reports if each.progress != report.progress]
        ordered = sorted([*others, report], key=lambda each: each.progress)
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
