"""Console output of a sweep: a live table on a terminal, otherwise a line for each event."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.config.run_config import RunConfig
from runner.results.format import MISSING, error_line, format_duration
from runner.sweep.importances import final
from runner.sweep.objectives import best_trial
from runner.sweep.outcome import Outcome, domains_of
from runner.sweep.settings import SweepSettings
from runner.sweep.space import SearchSpace
from runner.sweep.table import format_objective, format_value, seconds_of, short_names
from runner.sweep.trial_records import TrialRecord
from runner.sweep.view import summary, time_left_s
from runner.tracking.console import live_block

_STYLES = {"running": "", "finished": "green", "stopped": "dim", "failed": "red"}
_MIN_VALUES_WIDTH = 16  # characters; a narrower column is omitted
_MAX_ROWS = 12  # of the live table; the oldest ended trials are omitted


class SweepView:
    """Shows trials when their records change; a context manager.

    On a terminal, a live table has the running trials, the newest ended trials, the best trial and
    the time left. Otherwise (job logs), a line is printed when a trial starts, reports or ends.
    Records shown before the context is entered, and trials that ended before the sweep was resumed,
    are counted but not printed.
    """

    def __init__(
        self,
        console: Console,
        settings: SweepSettings,
        folder: Path,
        space: SearchSpace,
        config: RunConfig,
    ) -> None:
        self._console = console
        self._settings = settings
        self._folder = folder
        self._names = short_names(list(space.parameters))
        self._num_domains = domains_of(config, settings)
        self._records: dict[int, TrialRecord] = {}
        self._began = time.time()
        self._live: Live | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> SweepView:
        self._began = time.time()
        if self._console.is_terminal and self._live is None:
            self._live = live_block(self._console, self._block, refresh_per_second=2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, record: TrialRecord) -> None:
        """Shows the changes of a trial's newest record; thread-safe."""
        with self._lock:
            before = self._records.get(record.number)
            self._records[record.number] = record
            if before == record or (before is None and self._is_old(record)):
                return
            for line in self._lines(before, record):
                self._print(line)

    def print(self, message: str) -> None:
        """Prints a message above the table."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def finish(self, outcome: Outcome) -> None:
        """Ends the live table and prints the summary."""
        self.__exit__()
        for part in summary(outcome):
            # Wrapping would break the command that is to be copied.
            self._console.print(part, soft_wrap=isinstance(part, Text))

    def _is_old(self, record: TrialRecord) -> bool:
        """Whether the trial ended before this start."""
        return record.ended is not None and record.ended < self._began

    def _lines(self, before: TrialRecord | None, now: TrialRecord) -> list[Text]:
        """Lines on the changes of a trial; on a terminal, only on its end."""
        is_plain, lines = self._live is None, list[Text]()
        starts = before is None or (before.state != "running" and now.state == "running")
        if starts and is_plain:
            verb = " restarts" if now.reports else " starts"
            lines.append(Text(f"trial {now.number}{verb}: {self._values(now)}"))
        known = {each.progress for each in before.reports} if before else set[int]()
        for report in now.reports if is_plain else ():
            if report.progress not in known and not (starts and now.state == "running"):
                scores = ", ".join(
                    f"{each.name} {format_objective(each.of(report))}"
                    for each in self._settings.objectives
                )
                where = f"{report.reached(self._num_domains)} {report.domain}"
                if report.epochs is not None:
                    where = f"{report.reached(self._num_domains)} epochs of {report.domain}"
                duration = format_duration(report.seconds)
                lines.append(Text(f"trial {now.number} learned {where}: {scores}, {duration}"))
        if now.state != "running" and (before is None or before.state != now.state):
            lines.append(self._ending(now))
        return lines

    def _ending(self, record: TrialRecord) -> Text:
        line = Text(f"trial {record.number} {record.state}", style=_STYLES[record.state])
        if record.state == "failed":
            line.append(f": {error_line(record.reason)}")
        elif record.last is not None:
            unit = "domains" if record.last.epochs is None else "epochs"
            learned = f" after {record.last.reached(self._num_domains)} {unit}"
            line.append(learned if record.state == "stopped" else "")
            scores = [(each, each.of(record.last)) for each in self._settings.objectives]
            line.append(
                f": {', '.join(f'{each.name} {format_objective(of)}' for each, of in scores)}"
            )
            if self._best() is record:
                line.append(", the best so far", style="bold")
        line.append(f"  ({self._progress()})", style="dim")
        return line

    def _block(self) -> RenderableType:
        with self._lock:
            return Group(self._table(), Text(self._summary()))

    def _table(self) -> Table:
        best = self._best()
        shown = [(record, self._cells(record, record is best)) for record in self._shown()]
        headings = ["trial", "reached", *(each.name for each in self._settings.objectives)]
        headings += ["state", "time"]
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        used = 0
        for index, heading in enumerate(headings):
            width = max(len(heading), *(len(cells[index]) for _, cells in shown), 4)
            is_text = heading in ("reached", "state")
            table.add_column(
                heading, justify="left" if is_text else "right", no_wrap=True, width=width
            )
            used += width + 2
        free_width = self._console.width - used
        has_values = free_width >= _MIN_VALUES_WIDTH
        if has_values:
            table.add_column("values", overflow="ellipsis", no_wrap=True, max_width=free_width)
        for record, cells in shown:
            values = [Text(self._values(record), style="dim")] if has_values else []
            style = "bold green" if record is best else _STYLES[record.state]
            table.add_row(*map(Text, cells), *values, style=style)
        return table

    def _cells(self, record: TrialRecord, is_best: bool) -> list[str]:
        last, seconds = record.last, self._seconds(record)
        where = f"{last.reached(self._num_domains)} {last.domain}" if last else MISSING
        scores = [
            format_objective(each.of(last) if last else None) for each in self._settings.objectives
        ]
        state = "best" if is_best else record.state
        return [
            str(record.number),
            where,
            *scores,
            state,
            "" if seconds is None else format_duration(seconds),
        ]

    def _shown(self) -> list[TrialRecord]:
        """Running trials, the best one, and as many of the newest others as fit."""
        records = sorted(self._records.values(), key=lambda each: each.number)
        best = self._best()
        kept = [each for each in records if each.state == "running" or each is best]
        others = [each for each in records if each not in kept]
        num_others = max(2, min(_MAX_ROWS, self._console.size.height - 6) - len(kept))
        return sorted([*kept, *others[-num_others:]], key=lambda each: each.number)

    def _summary(self) -> str:
        counts = Counter(record.state for record in self._records.values())
        states = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state])
        return f"{self._progress()}{f'; {states}' if states else ''}"

    def _progress(self) -> str:
        ended = [each for each in self._records.values() if each.state != "running"]
        parts = [f"{len(ended)}/{self._settings.num_trials} trials ended"]
        best = self._best()
        objective = self._settings.objectives[0]
        if best is not None:
            value = format_objective(final(best, objective))
            parts.append(f"best {objective.name} {value} of trial {best.number}")
        left = time_left_s(self._records.values(), self._settings, time.time())
        if left:
            parts.append(f"about {format_duration(left)} left")
        return ", ".join(parts)

    def _best(self) -> TrialRecord | None:
        ordered = sorted(self._records.values(), key=lambda each: each.number)
        return best_trial(ordered, self._settings.objectives[0])

    def _seconds(self, record: TrialRecord) -> float | None:
        if record.state == "running" and record.began is not None:
            before_s = record.last.seconds if record.last else 0.0
            return max(before_s, time.time() - max(record.began, self._began))
        return seconds_of(record)

    def _values(self, record: TrialRecord) -> str:
        return ", ".join(
            f"{self._names.get(k, k)}={format_value(v)}" for k, v in record.values.items()
        )

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)
