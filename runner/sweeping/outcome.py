"""What a sweep leaves behind: its best configuration as a preset, tables, and pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import RunConfig
from runner.storage import write_atomically
from runner.sweeping.objectives import best_trial
from runner.sweeping.records import TrialRecord, read_records
from runner.sweeping.settings import SweepSettings

if TYPE_CHECKING:
    from runner.sweeping.space import SearchSpace


@dataclass(frozen=True)
class Outcome:
    """What is known of a sweep now; it may still be running.

    Attributes:
        folder: of the sweep.
        records: of all its trials.
        best: the finished trial with the best first objective.
    """

    folder: Path
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None


def write_outcome(
    folder: Path, settings: SweepSettings, space: SearchSpace, config: RunConfig
) -> Outcome:
    """Writes best.yaml, trials.csv, summary.json, table.md and the pictures, from the records.

    Args:
        folder: of the sweep.
        settings: what it was asked to do.
        space: what is searched, within `config`.
        config: what every trial begins with, as the user's own run would have it.
    """
    records = tuple(read_records(folder))
    outcome = Outcome(folder, records, best_trial(records, settings.objectives[0]))
    best = None if outcome.best is None else {"number": outcome.best.number}
    write_atomically(folder / "summary.json", json.dumps({"name": settings.name, "best": best}))
    return outcome
