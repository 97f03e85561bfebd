"""Cells side by side as Ray tasks, on a local Ray or the cluster that is joined."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from runner.ablation.cells import Cell
from runner.config.run_config import RunConfig, base_folder, validate
from runner.experiment import run_experiment
from runner.on_ray.cluster import connected
from runner.on_ray.resources import wait_for_resources

_HOME = "LIFELONG_REID_HOME"
_USUAL = (ValueError, OSError, RuntimeError, FloatingPointError)


@dataclass(frozen=True)
class Ending:
    """How a cell ended.

    Attributes:
        cell: it.
        error: what went wrong; None if it finished.
        left: cells that have not ended, in their order, and the seconds each has been run.
    """

    cell: Cell
    error: str | None
    left: tuple[tuple[Cell, float], ...]


@contextmanager
def workplace(cells: Sequence[Cell], jobs: int | None) -> Iterator[int]:
    """Connects to Ray and gives how many cells will run side by side.

    Args:
        cells: what is to be run; those with cluster.use_gpu take a GPU each.
        jobs: at most so many, for which an autoscaler is given `cluster.wait_s` to make room; None
            takes every CPU (or GPU) there is.

    Raises:
        ValueError: there is no room for one cell.
        ConnectionError: the cluster does not answer.
    """
    with connected(_for_connecting(cells[0].config)):
        threads = max(cell.config.cluster.threads_per_worker for cell in cells)
        of_cell = {"CPU": float(threads)}
        if any(cell.config.cluster.use_gpu for cell in cells):
            of_cell["GPU"] = 1.0
        wanted = [of_cell] * min(jobs or 1, len(cells))
        resources = wait_for_resources(wanted, cells[0].config.cluster.wait_s)
        room = min(int(resources.get(name, 0.0) // need) for name, need in of_cell.items())
        if room < 1:
            raise ValueError(
                f"a cell needs {threads} CPUs, and with cluster.use_gpu=true a GPU; there are "
                f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs. Lower "
                "cluster.threads_per_worker, set cluster.use_gpu=false, or join a cluster: "
                "cluster.address"
            )
        yield min(room, jobs or room, len(cells))


def run_cells(
    cells: Sequence[Cell], side_by_side: int, ended: Callable[[Ending], None]
) -> list[Ending]:
    """Runs cells to their ends, whatever becomes of one of them; call it inside `workplace`.

    Args:
        cells: begun in this order.
        side_by_side: at most so many at once.
        ended: told of each as it ends.
    """
    home = str(base_folder())
    waiting, running, endings = list(cells), dict[Any, tuple[Cell, float]](), list[Ending]()

    def left() -> tuple[tuple[Cell, float], ...]:
        now = time.monotonic()
        busy = [(cell, now - began) for cell, began in running.values()]
        return (*busy, *((cell, 0.0) for cell in waiting))

    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                cell = waiting.pop(0)
                running[_submit(cell, home)] = cell, time.monotonic()
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                cell, _ = running.pop(reference)
                endings.append(Ending(cell, _error_of(reference), left()))
                ended(endings[-1])
    finally:
        # Ctrl-C: on a cluster of others' the tasks would go on by themselves.
        for reference in running:
            ray.cancel(reference, force=True)
    return endings


def _submit(cell: Cell, home: str) -> Any:
    cluster = cell.config.cluster
    task = ray.remote(_run).options(
        name=f"{cell.row}-seed{cell.seed}",
        num_cpus=cluster.threads_per_worker,
        num_gpus=1 if cluster.use_gpu else 0,
        # A task that a lost machine took along goes on elsewhere, from the run's checkpoint.
        max_retries=cluster.max_failures,
    )
    return task.remote(cell.config.model_dump(mode="json"), home)


def _error_of(reference: Any) -> str | None:
    try:
        return ray.get(reference)
    except RayError as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"


def _run(values: Mapping[str, Any], home: str) -> str | None:
    """A task: the run in this process; what went wrong, or None."""
    before = os.environ.get(_HOME)
    os.environ[_HOME] = home  # a worker's current folder is not the driver's
    try:
        run_experiment(validate(values))
    except _USUAL as error:
        return f"{type(error).__name__}: {error}"
    except Exception:  # a fault of the code, which the other cells may not have
        return traceback.format_exc()
    finally:
        if before is None:
            del os.environ[_HOME]
        else:
            os.environ[_HOME] = before
    return None


def _for_connecting(config: RunConfig) -> RunConfig:
    """`connected` checks the room of a run with workers; a cell's room is checked here."""
    changes = {"num_workers": 1, "use_gpu": False, "cpus_per_worker": None}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=changes)})
