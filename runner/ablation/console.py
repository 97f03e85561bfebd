"""What a table says while it runs: its plan, and a line for each cell that ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from runner.ablation.cells import Cell, Key
from runner.ablation.quantities import said_of
from runner.ablation.run import Ending
from runner.ablation.table_file import TableConfig
from runner.ablation.timing import Clock, seconds_of
from runner.results.finished_runs import FinishedRun
from runner.results.format import error_line, format_duration
from runner.training.model_selection import Which


def clock_of(
    table: TableConfig, cells: Sequence[Cell], finished: Mapping[Key, FinishedRun]
) -> Clock:
    """What is known of the cells' times; the table's own guess is of drawn people."""
    is_drawn = all(cell.config.benchmark.is_drawn for cell in cells)
    minutes = table.minutes_per_run if is_drawn else None
    learners = {cell.row: cell.config.learner.name for cell in cells}
    return Clock(minutes and 60 * minutes, finished, learners)


def show_plan(
    console: Console,
    table: TableConfig,
    cells: Sequence[Cell],
    num_finished: int,
    missing: Sequence[Cell],
    times: Clock,
    side_by_side: int,
) -> None:
    """Says how much there is to do, and for how long."""
    num_rows = len(table.rows)
    begun = sum(cell.has_begun for cell in missing)
    console.print(table.title, style="bold", markup=False)
    console.print(
        f"{len(cells)} runs ({num_rows} rows x {len(cells) // num_rows} seeds): "
        f"{num_finished} finished, {len(missing)} to run"
        + f", {begun} of them begun"
        * bool(begun),
        highlight=False,
    )
    if missing:
        left = times.left_s([(cell, 0.0) for cell in missing], side_by_side)
        about = (
            "time unknown until the first ends"
            if left is None
            else f"about {format_duration(left)}"
        )
        console.print(f"{side_by_side} side by side; {about}", highlight=False)


class Lines:
    """A line for each cell that ends, with the time that the others will take."""

    def __init__(
        self,
        console: Console,
        times: Clock,
        num_cells: int,
        side_by_side: int,
        checkpoint: Which,
    ) -> None:
        self.num_ended = 0
        self._checkpoint: Which = checkpoint
        self._console = console
        self._times = times
        self._num_cells = num_cells
        self._side_by_side = side_by_side

    def ended(self, ending: Ending) -> None:
        """Prints the line."""
        self.num_ended += 1
        if ending.error is None:
            said = [self._numbers(ending.cell)]
        else:
            said = [f"failed: {error_line(ending.error)}"]
        left = self._times.left_s(ending.left, self._side_by_side)
        if ending.left and left is not None:
            said.append(f"about {format_duration(left)} left")
        name = f"{ending.cell.row} seed {ending.cell.seed}"
        self._console.print(
            f"{self.num_ended:3d}/{self._num_cells}  {name}: {'; '.join(said)}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _numbers(self, cell: Cell) -> str:
        results = cell.storage.results()
        assert results is not None, "a task that returned has written its results"
        seconds = seconds_of(results)
        self._times.add(cell.row, seconds)
        return f"{said_of(results, self._checkpoint)}, in {format_duration(seconds)}"
