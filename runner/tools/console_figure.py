"""Draws the console of a finished run in mid-run: `python -m runner.tools.console_figure RUN`."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner.results.run_folder import RunStorage
from runner.tracking.console import ProgressView
from runner.tracking.event_log import Event, read_events

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "console.svg"


def draw_console(run_folder: Path, num_domains: int, width: int) -> str:
    """SVG of the console while a run trains on the domain after the first `num_domains`.

    Args:
        run_folder: folder of a run with more than `num_domains` domains.
        num_domains: domains that are finished in the figure.
        width: width of the console, in characters.
    """
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(Text("$ python runner/lifelong.py run --preset demo"))
    view = ProgressView(console)
    num_iterations = 0
    for event in read_events(RunStorage(run_folder).events_file).events:
        view.handle(_with_default_storage(event))
        if event.get("domain_index") == num_domains and event["event"] == "iteration":
            num_iterations += event["stage"] == "icar"
        if num_iterations > 30:
            break
    console.print(view.live_lines())
    svg = console.export_svg(title="lifelong-reid")
    # The fonts are on a server; without them the reader's monospace font is used.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def _with_default_storage(event: Event) -> Event:
    """Event with the default folder of runs, so that the figure has no path of this machine."""
    if event["event"] != "run":
        return event
    return {**event, "params": {**event.get("params", {}), "storage.root": "runs"}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the figure."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.tools.console_figure", description=__doc__
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--domains", type=int, default=3, help="finished domains (default: 3)")
    parser.add_argument("--width", type=int, default=102, help="characters (default: 102)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.name}")
    options = parser.parse_args(arguments)
    svg = draw_console(options.run, options.domains, options.width)
    options.output.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
