"""Execution of cells as Ray tasks, on a local Ray or on a Ray cluster."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from runner.ablation.cells import Cell
from runner.config.run_config import RunConfig, base_folder
from runner.experiment import run_experiment
from runner.on_ray.cluster import connected
from runner.on_ray.resources import wait_for_resources
from runner.on_ray.shared_images import SharedImages
from runner.on_ray.task_settings import base_folder_of_driver, connection_config

_EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError)


@dataclass(frozen=True)
class CellResult:
    """Result of a cell that ended.

    Attributes:
        cell: the cell.
        error: error message; None if the cell finished.
        remaining: cells that have not ended, in order, and the seconds that each has run.
    """

    cell: Cell
    error: str | None
    remaining: tuple[tuple[Cell, float], ...]


@contextmanager
def ray_jobs(cells: Sequence[Cell], jobs: int | None) -> Iterator[int]:
    """Connects to Ray and yields the number of cells that can run at the same time.

    Args:
        cells: cells to run; with cluster.use_gpu each takes a GPU.
        jobs: largest number of concurrent cells; an autoscaler has `cluster.wait_s` to add nodes.
            None uses all CPUs (or GPUs).

    Raises:
        ValueError: the resources are too small for one cell.
        ConnectionError: the cluster does not answer.
    """
    with connected(connection_config(cells[0].config)):
        threads = max(cell.config.cluster.threads_per_worker for cell in cells)
        per_cell = {"CPU": float(threads)}
        if any(cell.config.cluster.use_gpu for cell in cells):
            per_cell["GPU"] = 1.0
        wanted = [per_cell] * min(jobs or 1, len(cells))
        resources = wait_for_resources(wanted, cells[0].config.cluster.wait_s)
        num_fitting = min(int(resources.get(name, 0.0) // need) for name, need in per_cell.items())
        if num_fitting < 1:
            raise ValueError(
                f"expected {threads} CPUs for a cell, and a GPU with cluster.use_gpu=true, got "
                f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs; lower "
                "cluster.threads_per_worker, set cluster.use_gpu=false, or set cluster.address to "
                "a larger cluster"
            )
        yield min(num_fitting, jobs or num_fitting, len(cells))


def run_cells(
    cells: Sequence[Cell],
    num_jobs: int,
    on_end: Callable[[CellResult], None],
    shared: SharedImages,
) -> list[CellResult]:
    """Runs all cells, also if some fail; must be called inside `ray_jobs`.

    Args:
        cells: cells in the order in which they start.
        num_jobs: largest number of concurrent cells.
        on_end: called with the result of each cell.
        shared: images that are decoded once for all cells.
    """
    home = str(base_folder())
    waiting, running = list(cells), dict[Any, tuple[Cell, float]]()
    results: list[CellResult] = []

    def remaining() -> tuple[tuple[Cell, float], ...]:
        now = time.monotonic()
        active = [(cell, now - began) for cell, began in running.values()]
        return (*active, *((cell, 0.0) for cell in waiting))

    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                cell = waiting.pop(0)
                running[_submit(cell, home, shared)] = cell, time.monotonic()
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                cell, _ = running.pop(reference)
                results.append(CellResult(cell, _error_of(reference), remaining()))
                on_end(results[-1])
    finally:
        # After Ctrl-C, tasks on a shared cluster would continue without the driver.
        for reference in running:
            ray.cancel(reference, force=True)
    return results


def _submit(cell: Cell, home: str, shared: SharedImages) -> Any:
    cluster = cell.config.cluster
    task = ray.remote(_run).options(
        name=f"{cell.row}-seed{cell.seed}",
        num_cpus=cluster.threads_per_worker,
        num_gpus=1 if cluster.use_gpu else 0,
        # A task of a lost machine is retried on another one, from the run's checkpoint.
        max_retries=cluster.max_failures,
    )
    tracking = cell.config.tracking.without_password()
    config = cell.config.model_copy(update={"tracking": tracking})
    return task.remote(config, home, shared)


def _error_of(reference: Any) -> str | None:
    try:
        return ray.get(reference)
    except RayError as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"


def _run(config: RunConfig, home: str, shared: SharedImages) -> str | None:
    """Ray task: executes the run in this process and returns an error message or None."""
    with base_folder_of_driver(home):
        try:
            run_experiment(config, shared=shared)
        except _EXPECTED_ERRORS as error:
            return f"{type(error).__name__}: {error}"
        except Exception:  # a bug; other cells may not be affected
            return traceback.format_exc()
    return None
