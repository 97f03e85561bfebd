"""The command line: `python runner/lifelong.py [run] [--preset demo] [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script, from any folder or under `ray job submit`: Python put this folder first on
    # the path, where the packages' parent belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib
import os
import pkgutil
from collections.abc import Sequence

from rich.console import Console

import runner.commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 failed, 2 wrong input)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0] not in commands() and given[0] not in ("-h", "--help")):
        given.insert(0, "run")
    options = _parsed(given)
    errors = Console(stderr=True)
    try:
        return options.main(options)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        errors.print(f"[bold red]error[/] {type(error).__name__}", highlight=False)
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    except RuntimeError as error:
        errors.print("[bold red]failed[/]", highlight=False)
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoint"
        errors.print("stopped" + (goes_on if options.command == "run" else ""))
        return 130


def commands() -> list[str]:
    """Every command: the modules of runner/commands."""
    modules = pkgutil.iter_modules(runner.commands.__path__)
    return [module.name.replace("_", "-") for module in modules]


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options; overrides may stand anywhere among them, which argparse alone does not allow."""
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    overrides = [each for each in rest if "=" in each and not each.startswith("-")]
    if unknown := [each for each in rest if each not in overrides]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifelong.py", description="Lifelong person re-identification experiments."
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in commands():
        module = importlib.import_module(f"runner.commands.{name.replace('-', '_')}")
        command = subparsers.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


if __name__ == "__main__":
    sys.exit(main())
