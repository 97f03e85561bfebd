"""The screen of a sweep: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from runner.config import RunConfig
from runner.sweeping.outcome import Outcome
from runner.sweeping.records import TrialRecord
from runner.sweeping.settings import SweepSettings

if TYPE_CHECKING:
    from runner.sweeping.space import SearchSpace


class SweepView:
    """Shows trials as their records change; a context manager."""

    def __init__(
        self,
        console: Console,
        settings: SweepSettings,
        folder: Path,
        space: SearchSpace,
        config: RunConfig,
    ) -> None:
        self._console = console
        self._records: dict[int, TrialRecord] = {}

    def __enter__(self) -> SweepView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, record: TrialRecord) -> None:
        """Takes a trial's newest record, from any thread; what did not change says nothing."""
        if self._records.get(record.number) != record:
            self._records[record.number] = record
            self._console.print(f"trial {record.number}: {record.state}")

    def say(self, message: str) -> None:
        """Prints a message above the table."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def finish(self, outcome: Outcome) -> None:
        """Ends the live table and prints what came out."""
        self._console.print(f"sweep in {outcome.folder}")
