"""Runs of the command line, as somebody who types it would time them, and how to read them."""

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
    """One run of the command line from its first moment to its end.

    Attributes:
        began: when the command was typed, in Unix seconds.
        first_line_s: seconds until the first line of progress was on the screen.
        wall_s: seconds until the command was done.
        events: what the run wrote down.
        results: its results.json.
    """

    began: float
    first_line_s: float
    wall_s: float
    events: Sequence[Event]
    results: dict[str, Any]


@dataclass(frozen=True)
class Gap:
    """What lay between two domains, in seconds.

    Attributes:
        waiting: for the images of the next domain.
        begin_domain: for all else: class centres, prompts, texts, the optimiser.
    """

    waiting: float
    begin_domain: float


def run_command(preset: str, overrides: Iterable[str], folder: Path) -> Trace:
    """Runs `lifelong.py run` in a process of its own and times it.

    Args:
        preset: name of the preset.
        overrides: `key=value`; they name the run so that it is stored at `folder`.
        folder: the run's storage.

    Raises:
        RuntimeError: the command failed; the message ends with its last lines.
    """
    began = time.time()
    first_line_s, wall_s = time_command("run", "--preset", preset, *overrides)
    events = read_events(folder / "events.jsonl").events
    results = json.loads((folder / "results.json").read_text())
    return Trace(began, first_line_s, wall_s, events, results)


def time_command(*arguments: str) -> tuple[float, float]:
    """Runs `lifelong.py` in a process of its own: seconds to its first line, and to its end.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
    """
    command = [sys.executable, str(ENTRY), *arguments]
    clock = time.perf_counter()
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
                first_line_s = time.perf_counter() - clock
            lines.append(line)
    wall_s = time.perf_counter() - clock
    if process.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}\nended with status {process.returncode}:\n{''.join(lines[-20:])}"
        )
    return first_line_s, wall_s


def first_iteration_s(trace: Trace) -> float:
    """Seconds from the command to the beginning of the first iteration."""
    return _of_kind(trace.events, "stage")[0]["time"] - trace.began


def steady_images_per_s(events: Sequence[Event], stage: str, batch_size: int) -> float:
    """Images trained on each second in a stage, over all domains, its first epochs left out.

    What belongs to every epoch (its plan, its checkpoint) is part of the time.

    Args:
        events: of a run with at least two epochs of the stage.
        stage: name of the stage.
        batch_size: images of an iteration.

    Raises:
        ValueError: no domain has a second epoch of the stage.
    """
    seconds, images = 0.0, 0
    iterations = [each for each in _of_kind(events, "iteration") if each["stage"] == stage]
    for domain in sorted({each["domain_index"] for each in iterations}):
        own = [each for each in iterations if each["domain_index"] == domain]
        later = [each for each in own if each["epoch"] > own[0]["epoch"]]
        if later:
            # Events carry the time of the flush, and an epoch ends with one.
            seconds += later[-1]["time"] - own[-len(later) - 1]["time"]
            images += len(later) * batch_size
    if not images:
        raise ValueError(f"a steady state needs two epochs of stage {stage}; the run has one")
    return images / seconds


def gaps(events: Sequence[Event]) -> list[Gap]:
    """What lay between the end of every domain (its checkpoint) and the next one's training."""
    finished = {each["domain_index"]: each for each in _of_kind(events, "domain_finished")}
    began: dict[int, Event] = {}
    for stage in _of_kind(events, "stage"):
        began.setdefault(stage["domain_index"], stage)
    found = list[Gap]()
    for index in sorted(finished.keys() & {index + 1 for index in finished}):
        waiting = finished[index]["timings"]["waiting"]
        between = began[index]["time"] - finished[index - 1]["time"]
        found.append(Gap(waiting, between - waiting))
    return found


def _of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]
