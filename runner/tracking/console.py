"""Console view of a run's event log: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runner.results.format import format_bytes, format_duration
from runner.tracking.event_log import Event, as_number, read_events
from runner.tracking.mlflow_payloads import mean_score

_POLL_S = 0.2
_LINE_INTERVAL_S = 5.0  # seconds between two lines of one stage without a terminal
_BAR_WIDTH, _MIN_BAR_WIDTH = 24, 4
_MIN_TIMED_S = 3.0  # minimum measured time for an estimate of the remaining time


class EventView(Protocol):
    """Receiver of a run's events, called on the thread that follows the event log."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def handle(self, event: Event) -> None:
        """Handles the next event; unknown kinds are ignored."""
        ...


class ProgressView:
    """Context manager that shows a run's events on a console, in order.

    On a terminal, a live block shows the progress, and lasting lines (start, evaluations, warnings)
    are printed above it. Without a terminal (CI, job logs), a line is printed at the first
    iteration of a stage, then every few seconds, and at the last iteration.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._run: Event = {}
        self._stage: Event = {}
        self._num_iterations: float | None = None
        self._iteration: Event | None = None
        self._first_iteration: Event | None = None
        self._last_line_time = -math.inf
        self._activity = "starting"
        self._spinner = Spinner("dots")

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal and self._live is None:
            self._live = live_block(self._console, self.live_lines, refresh_per_second=5)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def handle(self, event: Event) -> None:
        """Handles the next event; unknown kinds are ignored."""
        handlers: dict[str, Callable[[Event], None]] = {
            "run": self._show_run,
            "plan": self._set_plan,
            "stage": self._show_stage,
            "iteration": self._show_iteration,
            "evaluation": self._show_evaluation,
            "domain_finished": self._show_domain_finished,
            "log": self._show_log,
            "finished": self._show_finished,
            "failed": self._show_end,
            "stopped": self._show_end,
        }
        if event["event"] in handlers:
            handlers[event["event"]](event)

    def _show_run(self, event: Event) -> None:
        self._run, self._stage = event, {}
        self._num_iterations = as_number(event.get("total_iterations"))
        self._iteration = self._first_iteration = None
        self._activity = "preparing the first iteration"
        attempt = event.get("attempt") or 1
        resumed = f"  (start {attempt})" if attempt > 1 else ""
        self._print(Text.assemble((str(event["name"]), "bold"), (resumed, "yellow")))
        facts = {name: event.get(name) for name in ("learner", "benchmark", "seed")}
        if root := (event.get("params") or {}).get("storage.root"):
            facts["storage"] = f"{root}/{event['name']}"
        self._print(Text.assemble(*_pairs(facts)))

    def _set_plan(self, event: Event) -> None:
        self._num_iterations = as_number(event.get("total_iterations"))

    def _show_stage(self, event: Event) -> None:
        self._stage = event
        self._activity = f"{self._position(event)}: first iteration"
        self._last_line_time = -math.inf

    def _show_iteration(self, event: Event) -> None:
        self._iteration = event
        self._first_iteration = self._first_iteration or event
        is_last = int(event["iteration"]) == self._last_iteration()
        self._activity = f"after {event['stage']}: next stage or evaluation" if is_last else ""
        if not self._console.is_terminal and self._is_line_due(event):
            self._last_line_time = float(event["time"])
            parts = (self._position(event), self._count(event), *_rates(event), self._time_left())
            self._print(Text("  " + " | ".join(part for part in (*parts, _losses(event)) if part)))

    def _show_evaluation(self, event: Event) -> None:
        seen, unseen = self._run.get("seen") or [], self._run.get("unseen") or []
        step, scores = int(event["step"]), event["scores"]
        name = f"after {step}/{len(seen)} {seen[step - 1]}" if step else "untrained"
        split = "" if event["split"] == "test" else f" ({event['split']})"
        line = Text(f"{name}{split}: ", style="green" if not split else "dim")
        first = {"learned": seen[:step]} if step else {"not yet learned": seen}
        averages = [
            f"{group} {shown}"
            for group, domains in (first | {"unseen": unseen}).items()
            if (shown := _averages(scores, domains))
        ]
        line.append("; ".join(averages))
        seconds = as_number(event.get("seconds"))
        line.append("" if seconds is None else f"  ({seconds:.1f} s)", style="dim")
        self._print(line, can_wrap=True)
        self._activity = "preparing the next step"

    def _show_domain_finished(self, event: Event) -> None:
        timings = {name: as_number(value) for name, value in (event.get("timings") or {}).items()}
        parts = [f"{name} {value:.1f} s" for name, value in timings.items() if value is not None]
        if version := event.get("memory_version"):
            stored = format_bytes(as_number(event.get("stored_bytes_per_domain")) or 0)
            parts.append(f"prototypes version {version}, stored per domain {stored}")
        number = f"{int(event['domain_index']) + 1}/{len(self._run.get('seen') or []) or '?'}"
        text = f"learned {number} {event['domain']}: {', '.join(parts)}"
        self._print(Text(text, style="dim"), can_wrap=True)
        self._activity = "preparing the next step"

    def _show_log(self, event: Event) -> None:
        warning = event.get("level") == "warning"
        prefix = "warning: " if warning else ""
        text = Text(f"{prefix}{event['message']}", style="yellow" if warning else "dim")
        self._print(text, can_wrap="`" not in event["message"])

    def _show_finished(self, event: Event) -> None:
        self._activity = "done"
        seconds = as_number((event.get("timings") or {}).get("wall_s"))
        self._print(
            Text("finished" if seconds is None else f"finished in {format_duration(seconds)}")
        )

    def _show_end(self, event: Event) -> None:
        self._activity = event["event"]  # the command line prints the reason

    def _print(self, line: Text, *, can_wrap: bool = False) -> None:
        """Prints a line; a terminal shows lines that can wrap with breaks between words.

        Other lines contain paths or commands, which a break would make impossible to copy.
        """
        self._console.print(line, soft_wrap=not (can_wrap and self._console.is_terminal))

    def _is_line_due(self, event: Event) -> bool:
        elapsed = float(event["time"]) - self._last_line_time
        return elapsed >= _LINE_INTERVAL_S or int(event["iteration"]) == self._last_iteration()

    def _last_iteration(self) -> int:
        """Number of the last iteration of the current stage; -1 before the first stage."""
        stage = self._stage
        length = int(stage.get("epochs") or 0) * int(stage.get("iterations_per_epoch") or 0)
        return int(stage.get("first_iteration") or 0) + length - 1

    def _position(self, event: Event) -> str:
        number = f"{int(event['domain_index']) + 1}/{len(self._run.get('seen') or []) or '?'}"
        position = f"domain {number} {event['domain']}, {event['stage']}"
        if "epoch" not in event:
            return position
        return f"{position} epoch {int(event['epoch']) + 1}/{self._stage.get('epochs', '?')}"

    def _count(self, event: Event) -> str:
        total = "?" if self._num_iterations is None else f"{self._num_iterations:.0f}"
        return f"iteration {int(event['iteration']) + 1}/{total}"

    def _time_left(self) -> str:
        """Estimate from the mean speed since this start, including evaluations; stages differ."""
        first, last = self._first_iteration, self._iteration
        total = self._num_iterations
        if first is None or last is None or total is None:
            return ""
        num_timed = int(last["iteration"]) - int(first["iteration"])
        seconds = float(last["time"]) - float(first["time"])
        if num_timed < 1 or seconds < _MIN_TIMED_S:
            return ""
        num_left = max(0.0, total - 1 - int(last["iteration"]))
        return f"{format_duration(num_left * seconds / num_timed)} left"

    def live_lines(self) -> RenderableType:
        """Content of the live block."""
        event = self._iteration
        if event is None or self._activity:
            self._spinner.update(text=Text(f"{self._activity} ..."))
            waiting: RenderableType = self._spinner
            return waiting if event is None else Group(self._bar(event), waiting)
        position = Text(self._position(event), style="bold", no_wrap=True, overflow="ellipsis")
        position.append("".join(f" | {rate}" for rate in _rates(event)), style="dim")
        losses = Text(_losses(event), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(self._bar(event), position, losses)

    def _bar(self, event: Event) -> Table:
        """Progress of the whole run; the bar takes what count and time left do not need."""
        tail = ", ".join(part for part in (self._count(event), self._time_left()) if part)
        width = min(_BAR_WIDTH, self._console.width - len(tail) - 2)
        row = Table.grid(padding=(0, 1))
        if width >= _MIN_BAR_WIDTH:
            bar = ProgressBar(
                total=self._num_iterations or 1.0,
                completed=int(event["iteration"]) + 1,
                width=width,
            )
            row.add_row(bar, Text(tail, no_wrap=True))
        else:
            row.add_row(Text(tail, no_wrap=True))
        return row


def live_block(
    console: Console, block: Callable[[], RenderableType], *, refresh_per_second: float
) -> Live:
    """Starts a live block below the printed lines; it disappears when it stops."""
    live = Live(
        console=console,
        get_renderable=block,
        refresh_per_second=refresh_per_second,
        transient=True,
        # Do not replace sys.stdout: other output does not belong to the view.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start()
    return live


def follow(event_log: Path, view: EventView, stop: threading.Event) -> threading.Thread:
    """Starts a thread that passes every event written from now on to the view.

    The thread opens the view. When `stop` is set, it handles the remaining events, closes the view
    and ends.
    """
    offset = event_log.stat().st_size if event_log.exists() else 0
    thread = threading.Thread(
        target=_follow, args=(event_log, view, stop, offset), name="progress", daemon=True
    )
    thread.start()
    return thread


def _follow(path: Path, view: EventView, stop: threading.Event, offset: int) -> None:
    stopping = False
    with view:
        while not stopping:
            stopping = stop.wait(_POLL_S)
            part = read_events(path, offset)
            offset = part.offset
            for event in part.events:
                view.handle(event)


def _pairs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Styled pairs "name value"; missing values are omitted."""
    pieces: list[tuple[str, str]] = []
    for name, value in facts.items():
        if value is not None:
            pieces += [(f"{name} ", "dim"), (f"{value}   ", "")]
    return pieces


def _rates(event: Event) -> list[str]:
    rate = as_number(event.get("images_per_s"))
    return [] if rate is None else [f"{rate:.0f} images/s"]


def _losses(event: Event) -> str:
    """Loss and its unweighted terms."""
    loss = as_number(event.get("loss"))
    terms = {name: as_number(value) for name, value in (event.get("terms") or {}).items()}
    shown = " ".join(f"{name} {value:.3g}" for name, value in terms.items() if value is not None)
    head = "" if loss is None else f"loss {loss:.3g}"
    return f"{head} ({shown})" if head and shown else head or shown


def _averages(scores: Mapping[str, Mapping[str, Any]], domains: Sequence[str]) -> str:
    means = {metric: mean_score(scores, metric, domains) for metric in ("mAP", "R1")}
    known = {metric: value for metric, value in means.items() if value is not None}
    return ", ".join(f"{metric} {value:.1f}" for metric, value in known.items())
