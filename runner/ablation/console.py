"""Console output of an ablation while it runs: the plan, and a line for each cell that ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from runner.ablation.cells import Cell, Key
from runner.ablation.quantities import scores_line
from runner.ablation.run import CellResult
from runner.ablation.table_file import TableConfig
from runner.ablation.timing import TimeEstimator, seconds_of
from runner.results.finished_runs import FinishedRun
from runner.results.format import error_line, format_duration
from runner.training.model_selection import Which


def time_estimator(
    table: TableConfig, cells: Sequence[Cell], finished: Mapping[Key, FinishedRun]
) -> TimeEstimator:
    """Creates the estimator; `minutes_per_run` of the table is only used for synthetic data."""
    is_synthetic = all(cell.config.benchmark.is_synthetic for cell in cells)
    minutes = table.minutes_per_run if is_synthetic else None
    learners = {cell.row: cell.config.learner.name for cell in cells}
    return TimeEstimator(minutes and 60 * minutes, finished, learners)


def show_plan(
    console: Console,
    table: TableConfig,
    cells: Sequence[Cell],
    num_finished: int,
    missing: Sequence[Cell],
    times: TimeEstimator,
    num_jobs: int,
) -> None:
    """Prints the number of finished and missing runs, and the expected time."""
    num_rows = len(table.rows)
    num_started = sum(cell.is_started for cell in missing)
    console.print(table.title, style="bold", markup=False)
    text = f"{len(cells)} runs ({num_rows} rows x {len(cells) // num_rows} seeds): "
    text += f"{num_finished} finished, {len(missing)} to run"
    text += f", {num_started} of them to resume" if num_started else ""
    console.print(text, highlight=False)
    if missing:
        left_s = times.left_s([(cell, 0.0) for cell in missing], num_jobs)
        duration = (
            "duration unknown until the first run ends"
            if left_s is None
            else f"about {format_duration(left_s)}"
        )
        console.print(f"{num_jobs} at the same time; {duration}", highlight=False)


class ProgressLines:
    """Prints a line for each cell that ends, with the expected time left."""

    def __init__(
        self,
        console: Console,
        times: TimeEstimator,
        num_cells: int,
        num_jobs: int,
        checkpoint: Which,
    ) -> None:
        self.num_ended = 0
        self._checkpoint: Which = checkpoint
        self._console = console
        self._times = times
        self._num_cells = num_cells
        self._num_jobs = num_jobs

    def show(self, result: CellResult) -> None:
        """Prints the line of a cell."""
        self.num_ended += 1
        if result.error is None:
            parts = [self._scores(result.cell)]
        else:
            parts = [f"failed: {error_line(result.error)}"]
        left_s = self._times.left_s(result.remaining, self._num_jobs)
        if result.remaining and left_s is not None:
            parts.append(f"about {format_duration(left_s)} left")
        name = f"{result.cell.row} seed {result.cell.seed}"
        self._console.print(
            f"{self.num_ended:3d}/{self._num_cells}  {name}: {'; '.join(parts)}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _scores(self, cell: Cell) -> str:
        results = cell.storage.results()
        assert results is not None, "a finished task has written its results"
        seconds = seconds_of(results)
        self._times.add(cell.row, seconds)
        return f"{scores_line(results, self._checkpoint)}, in {format_duration(seconds)}"
