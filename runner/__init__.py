"""Distributed experiments in lifelong person re-identification: runs, sweeps and analyses."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _installed_version() -> str:
    try:
        return version("lifelong-reid")
    except PackageNotFoundError:  # run from a clone that is not installed
        return "0.1.0"


__version__ = _installed_version()


def program_name() -> str:
    """Command that started this process, for help texts and suggested commands.

    Returns:
        `lifelong-reid` for the console script, otherwise `python` and the path of lifelong.py.
    """
    program = Path(sys.argv[0])
    if program.stem == "lifelong-reid":
        return program.stem
    if program.name == "lifelong.py":
        return f"python {shlex.quote(sys.argv[0])}"
    return "python runner/lifelong.py"
