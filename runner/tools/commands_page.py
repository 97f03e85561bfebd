"""Generates docs/commands.md from the help texts of the command line."""

from __future__ import annotations

import argparse
import os
from unittest.mock import patch

from runner.lifelong import commands, make_parser

_WIDTH = 80
_INTRODUCTION = """\
# Command line

This page is generated from the help texts by `make docs`.

`lifelong-reid COMMAND` and `python runner/lifelong.py COMMAND` are the same program. Without a
command, `run` is executed. An option that several commands
share means the same in each:

| Option | Meaning |
|---|---|
| `--runs DIR` | folder of runs, in which names of runs are looked up |
| `--data DIR` | folder of images or of data sets |
| `--study URL` | database of a sweep |
| `--json` | print one JSON document to stdout and nothing else; progress goes to stderr |
| `--quiet` | print results and errors only |

`run` and `ablate` take `storage.root=DIR` in place of `--runs`; `run`, `evaluate` and `search` take
`benchmark.root=DIR` in place of `--data`.

Exit status: 0 success; 1 the run failed (`failed`); 2 the input was refused, or data or a diverged
loss made it impossible to continue (`error`); 130 interrupted.

With the optional package argcomplete, `eval "$(register-python-argcomplete lifelong-reid)"` enables
completion in bash and zsh.
"""


def render_commands() -> str:
    """Renders commands.md: the help of every command at 80 columns."""
    environment = {"COLUMNS": str(_WIDTH), "NO_COLOR": "1"}
    with patch.dict(os.environ, environment), patch("sys.argv", ["lifelong-reid"]):
        parser = make_parser()
        (subparsers,) = (
            action
            for action in parser._actions  # pyright: ignore[reportPrivateUsage]
            if isinstance(action, argparse._SubParsersAction)  # pyright: ignore[reportPrivateUsage]
        )
        helps = {name: subparsers.choices[name].format_help() for name in commands()}
    sections = [f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in helps.items()]
    return "\n".join([_INTRODUCTION, *sections])
