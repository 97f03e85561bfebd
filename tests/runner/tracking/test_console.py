"""Console view of hand-written events."""

import io
import re
import threading

import pytest
from rich.console import Console

from runner.tracking.console import ProgressView, follow
from runner.tracking.event_log import EventLog

RUN = {
    "event": "run",
    "time": 100.0,
    "name": "demo-vladr-seed1",
    "learner": "vladr",
    "benchmark": "synthetic",
    "seed": 1,
    "seen": ["plaza", "station"],
    "unseen": ["mall"],
    "params": {"storage.root": "/data/runs"},
    "total_iterations": 40,
    "attempt": 1,
}
STAGE = {
    "event": "stage",
    "time": 101.0,
    "domain": "station",
    "domain_index": 1,
    "stage": "icar",
    "epochs": 2,
    "iterations_per_epoch": 10,
    "first_iteration": 20,
}
SCORES = {
    "plaza": {"mAP": 50.0, "R1": 66.0},
    "station": {"mAP": 40.0, "R1": 50.0},
    "mall": {"mAP": 33.3, "R1": 44.4},
}


def iteration(number: int, time: float) -> dict:
    return {
        "event": "iteration",
        "time": time,
        "domain": "station",
        "domain_index": 1,
        "stage": "icar",
        "epoch": (number - 20) // 10,
        "iteration": number,
        "loss": 1.5,
        "terms": {"reid": 1.25, "cma": "nan"},
        "weights": {"reid": 1.0, "cma": 1.0},
        "lr": 1e-3,
        "images_per_s": 312.4,
    }


def evaluation(step: int, split: str = "test") -> dict:
    return {
        "event": "evaluation",
        "time": 200.0,
        "step": step,
        "split": split,
        "scores": SCORES,
        "seconds": 1.25,
    }


def plain(*events: dict) -> list[str]:
    """Lines printed without a terminal."""
    console = Console(file=io.StringIO(), force_terminal=False, width=60)
    with ProgressView(console) as view:
        for event in events:
            view.handle(event)
    return console.file.getvalue().splitlines()


def test_run_event_prints_header():
    lines = plain(RUN)
    assert lines[0].strip() == "demo-vladr-seed1"
    for fact in ("vladr", "synthetic", "seed 1", "/data/runs/demo-vladr-seed1"):
        assert fact in lines[1]


def test_resumed_run_shows_start_number():
    assert "start 3" in plain(RUN | {"attempt": 3})[0]


def test_lines_at_first_iteration_intervals_and_last_iteration():
    iterations = [iteration(20 + i, 102.0 + i) for i in range(20)]
    lines = plain(RUN, STAGE, *iterations)[2:]
    numbers = [int(line.split("iteration ")[1].split("/")[0]) for line in lines]
    assert numbers == [21, 26, 31, 36, 40]
    assert "domain 2/2 station, icar epoch 1/2" in lines[0]
    assert "312 images/s" in lines[0]
    assert "loss 1.5 (reid 1.25 cma nan)" in lines[0]
    assert "left" not in lines[0]
    assert "0:00:14 left" in lines[1]
    assert "0:00:00 left" in lines[-1]


def test_new_stage_prints_first_iteration_immediately():
    second = STAGE | {"stage": "more", "first_iteration": 21}
    lines = plain(RUN, STAGE, iteration(20, 102.0), second, iteration(21, 102.1))
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (evaluation(0), "untrained: not yet learned mAP 45.0, R1 58.0; unseen mAP 33.3, R1 44.4"),
        (evaluation(1), "after 1/2 plaza: learned mAP 50.0, R1 66.0; unseen mAP 33.3, R1 44.4"),
        (evaluation(2), "after 2/2 station: learned mAP 45.0, R1 58.0; unseen mAP 33.3"),
        (evaluation(2, "validation"), "after 2/2 station (validation): learned mAP 45.0"),
        (
            {
                "event": "domain_finished",
                "time": 1.0,
                "domain": "plaza",
                "domain_index": 0,
                "timings": {"train": 3.21, "wait": 0.04},
            },
            "learned 1/2 plaza: train 3.2 s, wait 0.0 s",
        ),
        (
            {
                "event": "domain_finished",
                "time": 1.0,
                "domain": "station",
                "domain_index": 1,
                "timings": {},
                "memory_version": 2,
                "stored_bytes_per_domain": 1536.0,
            },
            "learned 2/2 station: prototypes version 2, stored per domain 1.54 kB",
        ),
        (
            {"event": "log", "time": 1.0, "level": "warning", "message": "[x] is odd"},
            "warning: [x] is odd",
        ),
        (
            {"event": "finished", "time": 1.0, "summary": {}, "timings": {"wall_s": 3725.2}},
            "finished in 1:02:05",
        ),
    ],
)
def test_lasting_lines(event, expected):
    assert expected in plain(RUN, event)[-1]


def test_an_error_is_left_to_the_command_line():
    """Otherwise every error of a run would be printed twice."""
    failed = {"event": "failed", "time": 1.0, "error": "no [memory]"}
    assert plain(RUN, failed) == plain(RUN)


def test_a_run_without_unseen_domains():
    scores = {name: SCORES[name] for name in RUN["seen"]}
    line = plain(RUN | {"unseen": []}, evaluation(1) | {"scores": scores})[-1]
    assert line.strip() == "after 1/2 plaza: learned mAP 50.0, R1 66.0  (1.2 s)"


def test_unknown_and_early_events_are_ignored():
    assert plain({"event": "novelty", "time": 1.0}) == []
    assert "domain 2/? station" in plain(STAGE, iteration(20, 1.0))[0]


def test_plan_sets_total_iterations():
    plan = {"event": "plan", "time": 100.5, "total_iterations": 77, "first_iteration": 20}
    run = {key: value for key, value in RUN.items() if key != "total_iterations"}
    assert "iteration 21/?" in plain(run, STAGE, iteration(20, 102.0))[-1]
    assert "iteration 21/77" in plain(run, plan, STAGE, iteration(20, 102.0))[-1]


def test_following_opens_a_live_block_and_closes_it(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    stop = threading.Event()
    thread = follow(tmp_path / "events.jsonl", ProgressView(console), stop)
    stop.set()
    thread.join(5)
    shown = console.file.getvalue()
    assert "starting" in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h"), "the cursor comes back"


def test_a_terminal_shows_a_live_block():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ProgressView(console) as view:
        view.handle(RUN)
        view.handle(STAGE)
        view.handle(iteration(20, 102.0))
        view.handle(iteration(30, 112.0))
        console.print("printed above")
        view.handle({"event": "log", "time": 1.0, "level": "info", "message": "hello"})
    shown = console.file.getvalue()
    assert "domain 2/2 station, icar epoch 2/2" in shown
    assert "iteration 31/40, 0:00:09 left" in shown
    assert "printed above" in shown
    assert "hello" in shown


LONG = {"domain": "market1501", "stage": "mtad_attribute", "epoch": 11, "domain_index": 2}


@pytest.mark.parametrize("width", [45, 60, 80, 100])
def test_epoch_and_time_left_fit_every_terminal(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    view = ProgressView(console)
    run = RUN | {"total_iterations": 123456, "seen": list("abcde")}
    for event in (run, STAGE | LONG | {"epochs": 60}):
        view.handle(event)
    for number in (1000, 34567):
        view.handle(iteration(number, 100.0 + number) | LONG)
    console.print(view.live_lines())
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines[2:])) <= width
    assert "iteration 34568/123456" in lines[-3]
    assert re.search(r"\d:\d\d:\d\d left", lines[-3])
    if width > 45:
        assert "domain 3/5 market1501, mtad_attribute epoch 12/60" in lines[-2]


def test_a_terminal_breaks_lines_between_words():
    console = Console(file=io.StringIO(), force_terminal=True, width=50, color_system=None)
    view = ProgressView(console)
    command = f"python runner/lifelong.py sync {'folder' * 10}"
    for event in (RUN, evaluation(2), {"event": "log", "message": f"`{command}` sends the rest"}):
        view.handle(event)
    text = console.file.getvalue()
    words = [
        "after",
        "2/2",
        "station:",
        "learned",
        "mAP",
        "45.0,",
        "R1",
        "58.0;",
        "unseen",
        "mAP",
        "33.3,",
        "R1",
        "44.4",
        "(1.2",
        "s)",
    ]
    assert [word for line in text.splitlines()[2:-1] for word in line.split()] == words
    assert max(map(len, text.splitlines()[2:-1])) <= 50
    assert command in text, "a command is one line"


def test_following_skips_earlier_events(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("log", level="info", message="before")
    console = Console(file=io.StringIO(), force_terminal=False)
    stop = threading.Event()
    thread = follow(log.path, ProgressView(console), stop)
    for number in range(50):
        log.emit("log", level="info", message=f"line {number}")
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert console.file.getvalue().split("\n")[:-1] == [f"line {number}" for number in range(50)]
