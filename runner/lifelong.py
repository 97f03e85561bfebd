"""Command line: `python runner/lifelong.py [run] [--preset demo] [key=value ...]`."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script (from any folder, or by `ray job submit`): Python puts the folder of the
    # script first on the path; the packages are in its parent.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib
import io
import os
import pkgutil
import shlex
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

import runner.commands
from runner import __version__, program_name
from runner.commands._output import Output, make_console
from runner.config.disk_space import full_disk_message
from runner.config.redaction import masked
from runner.training.termination import RunFailedError, TerminatedError
from tasks.suggestion import suggestion

DEFAULT_COMMAND = "run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: words after the program name; default: `sys.argv[1:]`.

    Returns:
        Exit status: 0 success, 1 failure, 2 invalid input, 130 interrupted, 143 terminated.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _allow_any_text()
    options = _parse(words)
    output = Output(options)
    errors = make_console(stderr=True)
    try:
        # Libraries print to stdout as well; a JSON document has to be alone there.
        with redirect_stdout(sys.stderr) if output.as_json else nullcontext():
            status = options.main(options, output)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has exited, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        errors.print("stopped" + _how_to_resume(options, words), soft_wrap=True)
        return 130
    except TerminatedError:
        errors.print("stopped by SIGTERM" + _how_to_resume(options, words), soft_wrap=True)
        return 143
    except Exception as error:
        if message := full_disk_message(error):
            errors.print("failed", style="bold red")
            advice = ". Free some space" + _how_to_resume(options, words)
            errors.print(masked(message) + advice, soft_wrap=True)
            return 1
        if isinstance(error, ValueError | OSError | FloatingPointError):
            errors.print(f"error {type(error).__name__}", style="bold red")
            errors.print(masked(str(error)), soft_wrap=True)
            return 2
        if isinstance(error, RuntimeError):
            errors.print("failed", style="bold red")
            advice = _how_to_resume(options, words) if isinstance(error, RunFailedError) else ""
            errors.print(f"{masked(str(error))}{advice}", soft_wrap=True)
            return 1
        raise
    return status


def _how_to_resume(options: argparse.Namespace, words: Sequence[str]) -> str:
    """Ends a message about a run that stopped: the command that resumes it, quoted for a shell."""
    if options.command != DEFAULT_COMMAND:
        return ""
    repeated = shlex.join([word for word in words if word != "--fresh"])
    return (
        "; everything up to the last checkpoint is kept. To resume from it, run the same command:\n"
        f"  {program_name()} {repeated}"
    )


def commands() -> list[str]:
    """Names of all commands: the modules of runner/commands without a leading underscore."""
    modules = pkgutil.iter_modules(runner.commands.__path__)
    names = (module.name for module in modules)
    return [name.replace("_", "-") for name in names if not name.startswith("_")]


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    program = program_name()
    parser = argparse.ArgumentParser(
        prog=program,
        description="Lifelong person re-identification experiments.",
        epilog=f"`{program} COMMAND --help` describes a command. "
        f"Without a command, `{DEFAULT_COMMAND}` is executed.",
    )
    parser.add_argument("--version", action="version", version=f"lifelong-reid {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands():
        module = importlib.import_module(f"runner.commands.{name.replace('-', '_')}")
        command = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=f"example:\n  {program} {name} {module.EXAMPLE}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parses the options; unlike argparse alone, accepts overrides between them."""
    parser = make_parser()
    _enable_completion(parser)
    if words and not words[0].startswith("-") and "=" not in words[0]:
        if words[0] not in commands():
            parser.error(
                f"{words[0]!r} is neither a command nor an override key=value"
                f"{suggestion(words[0], commands())}; expected one of {', '.join(commands())}"
            )
    elif not words or words[0] not in ("-h", "--help", "--version"):
        words = [DEFAULT_COMMAND, *words]
    options, rest = parser.parse_known_args(words)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in overrides]:
        parser.error(f"unrecognized arguments: {masked(' '.join(unknown))}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def _enable_completion(parser: argparse.ArgumentParser) -> None:
    """Enables shell completion if the optional package argcomplete is installed.

    Setup: eval "$(register-python-argcomplete lifelong-reid)"
    """
    if "_ARGCOMPLETE" not in os.environ:  # set by the shell while it completes
        return
    try:
        argcomplete = importlib.import_module("argcomplete")
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def _allow_any_text() -> None:
    """Lets stdout and stderr print file names that their encoding cannot represent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
