"""Consoles and JSON output of the commands."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Creates a console that prints text literally.

    File names, queries and error messages may contain `[red]` or `:smile:`, so markup, emoji and
    highlighting are disabled. Use `style=` or `rich.text.Text` for styled text.
    """
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


class Output:
    """Output of one command, according to --json and --quiet.

    Attributes:
        results: stdout for tables and numbers; disabled by --json.
        notes: stdout for paths and suggested commands; disabled by --json and --quiet.
        progress: progress of runs; stdout, or stderr with --json; disabled by --quiet.
        status: progress bars; stderr; disabled by --quiet.
        warnings: stderr.
        as_json: whether `write_json` has to be called.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.as_json = bool(options.json)
        # lifelong.main redirects sys.stdout while a command with --json runs.
        self._stdout = sys.stdout
        self.results = make_console(quiet=self.as_json)
        self.notes = make_console(quiet=self.as_json or options.quiet)
        self.progress = make_console(stderr=self.as_json, quiet=options.quiet)
        self.status = make_console(stderr=True, quiet=options.quiet)
        self.warnings = make_console(stderr=True)

    def note(self, text: str) -> None:
        """Prints a line of `notes` without wrapping, so that paths and commands can be copied."""
        self.notes.print(text, soft_wrap=True)

    def write_json(self, document: Any) -> None:
        """Writes the JSON document of a command to stdout if --json was given.

        Numbers are not rounded; NaN and infinity become null, because JSON has neither.
        """
        if self.as_json:
            text = json.dumps(_finite(document), indent=1, allow_nan=False, default=str)
            print(text, file=self._stdout, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
