"""Timed runs of the command line, and measurements from their event logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.tracking.event_log import Event, read_events

ENTRY = Path(__file__).resolve().parents[1] / "lifelong.py"


@dataclass(frozen=True)
class Trace:
    """Times and results of one run of the command line.

    Attributes:
        start_time: start of the command, in Unix seconds.
        first_line_s: seconds until the first line of output.
        wall_s: seconds until the end of the command.
        events: the event log of the run.
        results: content of results.json.
    """

    start_time: float
    first_line_s: float
    wall_s: float
    events: Sequence[Event]
    results: dict[str, Any]


@dataclass(frozen=True)
class Gap:
    """Time between two domains, in seconds.

    Attributes:
        waiting: waiting for the images of the next domain.
        begin_domain: everything else: class centres, prompts, texts, the optimiser.
    """

    waiting: float
    begin_domain: float


def run_command(preset: str, overrides: Iterable[str], folder: Path) -> Trace:
    """Times `lifelong.py run` in a separate process.

    Args:
        preset: name of the preset.
        overrides: overrides `key=value`; they must set the storage of the run to `folder`.
        folder: storage folder of the run.

    Raises:
        RuntimeError: the command failed; the message contains its last lines of output.
    """
    start_time = time.time()
    first_line_s, wall_s = time_command("run", "--preset", preset, *overrides)
    events = read_events(folder / "events.jsonl").events
    results = json.loads((folder / "results.json").read_text())
    return Trace(start_time, first_line_s, wall_s, events, results)


def time_command(*arguments: str) -> tuple[float, float]:
    """Runs `lifelong.py` in a separate process.

    Returns:
        Seconds to its first line of output, and to its end.

    Raises:
        RuntimeError: the command failed; the message contains its last lines of output.
    """
    command = [sys.executable, str(ENTRY), *arguments]
    start_s = time.perf_counter()
    first_line_s, lines = 0.0, list[str]()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not lines:
                first_line_s = time.perf_counter() - start_s
            lines.append(line)
    wall_s = time.perf_counter() - start_s
    if process.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}\nfailed with status {process.returncode}:\n{''.join(lines[-20:])}"
        )
    return first_line_s, wall_s


def first_iteration_s(trace: Trace) -> float:
    """Seconds from the start of the command to the start of the first stage."""
    return _of_kind(trace.events, "stage")[0]["time"] - trace.start_time


def steady_images_per_s(events: Sequence[Event], stage: str, batch_size: int) -> float:
    """Computes the training images/s of a stage over all domains, without the first epochs.

    The time includes the work of each epoch, such as its plan and its checkpoint.

    Args:
        events: event log of a run.
        stage: name of the stage.
        batch_size: images per iteration.

    Raises:
        ValueError: no domain has a second epoch of the stage.
    """
    seconds, images = 0.0, 0
    iterations = [each for each in _of_kind(events, "iteration") if each["stage"] == stage]
    for domain in sorted({each["domain_index"] for each in iterations}):
        in_domain = [each for each in iterations if each["domain_index"] == domain]
        later = [each for each in in_domain if each["epoch"] > in_domain[0]["epoch"]]
        if later:
            # The logger flushes at the end of an epoch, so the last event has the end time.
            seconds += later[-1]["time"] - in_domain[-len(later) - 1]["time"]
            images += len(later) * batch_size
    if not images:
        raise ValueError(f"stage {stage}: expected at least two epochs in a domain, got one")
    return images / seconds


def gaps(events: Sequence[Event]) -> list[Gap]:
    """Computes the gaps between the final checkpoint of each domain and the next first stage."""
    finished = {each["domain_index"]: each for each in _of_kind(events, "domain_finished")}
    first_stages: dict[int, Event] = {}
    for stage in _of_kind(events, "stage"):
        first_stages.setdefault(stage["domain_index"], stage)
    gaps = list[Gap]()
    for index in sorted(finished.keys() & {index + 1 for index in finished}):
        waiting = finished[index]["timings"]["waiting"]
        between = first_stages[index]["time"] - finished[index - 1]["time"]
        gaps.append(Gap(waiting, between - waiting))
    return gaps


def _of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]
