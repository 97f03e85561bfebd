"""Runs with one random `kill -9` each, compared with an unbroken run.

A run is killed at a random moment after its first event, within 0.9 of the time that an unbroken
run takes.
The same command is then repeated until it succeeds. The results and the numbers of all iterations
must equal those of the unbroken run bit for bit, in the event log and in MLflow.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.bench.measurements import BenchResult, Measurement, Target
from runner.bench.outcomes import Iterations, Outcome, deviations, outcome_of, tracked_steps
from runner.bench.timed_runs import ENTRY
from runner.bench.workbench import Workbench
from runner.tracking.event_log import read_events

MAX_STARTS = 5
POLL_S = 0.02

IN_PROCESS = "driver, in-process"
TARGETS = {
    IN_PROCESS: "",
    "driver": "",
    "worker": "TrainWorker",
    "stream actor": "StreamActor",
    "prototype actor": "PrototypeActor",
    "decoding task": "Data",
    "raylet": "raylet/raylet",
    "global control store": "gcs_server",
}
"""Part of the command line of the process that is killed; the driver is found by its process."""


@dataclass(frozen=True)
class Kill:
    """One killed run.

    Attributes:
        target: key of TARGETS.
        was_alive: whether a process of the target existed at the moment of the kill.
        num_starts: commands until success.
        recovery_s: seconds from the kill to the next new iteration, or to the end if it was the
            last one.
        problems: differences from the unbroken run; empty if there are none.
    """

    target: str
    was_alive: bool
    num_starts: int
    recovery_s: float
    problems: Sequence[str]


def measure(workbench: Workbench) -> BenchResult:
    """Kills `workbench.repeats` runs, the targets in turn; moments are drawn from a fixed seed."""
    unbroken = [workbench.run("vladr", f"cluster.num_workers={workers}") for workers in (0, 1)]
    reference = outcome_of(unbroken[0].results, Iterations.of(unbroken[0].events))
    generator = random.Random(0)
    kills = list[Kill]()
    for number in range(workbench.repeats):
        target = list(TARGETS)[number % len(TARGETS)]
        limit_s = unbroken[int(target != IN_PROCESS)].wall_s
        kills.append(
            _kill(workbench, number, target, generator.uniform(0, 0.9 * limit_s), reference)
        )
        for problem in kills[-1].problems:
            print(f"kill {number + 1} ({target}): {problem}", file=sys.stderr)
    return _result(kills)


def _result(kills: Sequence[Kill]) -> BenchResult:
    measurements = [
        Measurement("chaos.kills", "", (float(len(kills)),)),
        Measurement("chaos.alive", "", (float(sum(each.was_alive for each in kills)),)),
        Measurement(
            "chaos.different",
            "",
            (float(sum(bool(each.problems) for each in kills)),),
            Target("<=", 0),
        ),
    ]
    for target in TARGETS:
        seconds = tuple(each.recovery_s for each in kills if each.target == target)
        if seconds:
            name = target.replace(", ", "_").replace(" ", "_").replace("-", "_")
            measurements.append(Measurement(f"chaos.recovery.{name}", "s", seconds))
    return BenchResult(tuple(measurements))


def _kill(
    workbench: Workbench, number: int, target: str, delay_s: float, reference: Outcome
) -> Kill:
    name = f"kill-{number}"
    folder = workbench.folder / "runs" / name
    database = workbench.folder / f"{name}.db"
    overrides = [
        *workbench.overrides("vladr"),
        f"cluster.num_workers={int(target != IN_PROCESS)}",
        f"run.name={name}",
        f"tracking.uri=sqlite:///{database}",
    ]
    command = [sys.executable, str(ENTRY), "run", "--preset", "demo-vladr", "--quiet", *overrides]
    log = workbench.folder / f"{name}.log"
    process = _start(command, log)
    _wait_for_events(process, folder / "events.jsonl")
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(delay_s)
    was_alive = _kill_one(process, target)
    killed_s, known = time.monotonic(), _last_iteration(folder)
    recovery_s, num_starts = None, 1
    while True:
        while process.poll() is None:
            if recovery_s is None and _last_iteration(folder) > known:
                recovery_s = time.monotonic() - killed_s
            time.sleep(POLL_S)
        if process.returncode == 0 or num_starts == MAX_STARTS:
            break
        process = _start(command, log)
        num_starts += 1
    if recovery_s is None:
        recovery_s = time.monotonic() - killed_s
    if process.returncode != 0:
        text = log.read_text(errors="replace")[-500:]
        problems = (f"status {process.returncode} after {num_starts} starts: {text}",)
        return Kill(target, was_alive, num_starts, recovery_s, problems)
    # A run in one process is not tracked before this command.
    subprocess.run(
        [sys.executable, str(ENTRY), "sync", str(folder)], check=True, capture_output=True
    )
    results = json.loads((folder / "results.json").read_text())
    events = read_events(folder / "events.jsonl").events
    outcome = outcome_of(results, Iterations.of(events))
    problems = [*deviations(reference, outcome), *tracked_steps(database, outcome)]
    return Kill(target, was_alive, num_starts, recovery_s, problems)


def _start(command: Sequence[str], log: Path) -> psutil.Popen:
    with log.open("ab") as output:
        return psutil.Popen(list(command), stdout=output, stderr=subprocess.STDOUT)


def _wait_for_events(process: psutil.Popen, events: Path) -> None:
    while process.poll() is None and not events.exists():
        time.sleep(POLL_S)


def _kill_one(process: psutil.Popen, target: str) -> bool:
    """Kills one process of the target; returns whether there was one."""
    pattern = TARGETS[target]
    found = [process]
    if pattern:
        found = [each for each in _family(process) if pattern in _command_line(each)]
    for each in found[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
            return True
    return False


def _family(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _last_iteration(folder: Path) -> int:
    events = read_events(folder / "events.jsonl").events
    return max((each["iteration"] for each in events if each["event"] == "iteration"), default=-1)
