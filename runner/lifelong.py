"""The command line: `python runner/lifelong.py [run] [--preset demo] [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script, from any folder or under `ray job submit`: Python put this folder first on
    # the path, where the packages' parent belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
from collections.abc import Sequence

from rich.console import Console

COMMANDS = ("run", "show-config", "sync")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 failed, 2 wrong input)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0] not in COMMANDS and given[0] not in ("-h", "--help")):
        given.insert(0, "run")
    options = _parser().parse_args(given)
    errors = Console(stderr=True)
    try:
        return options.function(options)
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
        errors.print("stopped; the same command goes on from the last checkpoint")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifelong.py", description="Lifelong person re-identification experiments."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run an experiment, or go on with it (the default)")
    _add_config_options(run)
    run.add_argument("--fresh", action="store_true", help="start over, dropping earlier results")
    run.set_defaults(function=_run)
    show = commands.add_parser("show-config", help="print the whole validated configuration")
    _add_config_options(show)
    show.set_defaults(function=_show_config)
    sync = commands.add_parser("sync", help="send to MLflow what a run could not send")
    sync.add_argument("run", help="a run's name under storage.root, or its folder")
    sync.add_argument("overrides", nargs="*", metavar="key=value", help="such as tracking.uri=...")
    sync.set_defaults(function=_sync)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", default="demo", help="a preset's name or a YAML file (default: demo)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override, such as seed=1"
    )


def _run(options: argparse.Namespace) -> int:
    from runner.config import load_config
    from runner.experiment import run_experiment, tracking_uri
    from runner.progress import ProgressView
    from runner.reporting import results_table

    console = Console()
    config = load_config(options.preset, options.overrides)
    result = run_experiment(config, fresh=options.fresh, view=ProgressView(console))
    console.print(results_table(result.results))
    if result.was_finished:
        console.print("This run was finished before; --fresh runs it again.")
    console.print(f"Results   {result.folder / 'results.json'}", soft_wrap=True)
    console.print(f"Pictures  {result.folder / 'matrix.png'}, curves.png", soft_wrap=True)
    pending = result.tracking.pending if result.tracking else 0
    if config.tracking.uri is None:
        return 0
    if config.cluster.num_workers == 0 or pending:
        command = f"python runner/lifelong.py sync {result.folder}"
        console.print(f"Tracking  {command} sends this run to MLflow", soft_wrap=True)
    else:
        command = f"mlflow ui --backend-store-uri {tracking_uri(config)}"
        console.print(f"Tracking  {command}", soft_wrap=True)
    return 0


def _show_config(options: argparse.Namespace) -> int:
    from runner.config import load_config, to_yaml

    config = load_config(options.preset, options.overrides)
    print(f"# run name: {config.run_name}")
    print(to_yaml(config), end="")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from runner.config import base_folder, load_config
    from runner.experiment import tracking_uri
    from runner.mlflow_sender import public_uri
    from runner.tracking import sync

    folder = Path(options.run)
    if not folder.is_dir():
        given = dict(override.partition("=")[::2] for override in options.overrides)
        folder = base_folder() / given.get("storage.root", "runs") / options.run
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"sync: expected a run's folder, or its name under storage.root; found no run at "
            f"{folder}. Give the folder, or storage.root=..."
        )
    config = load_config(str(folder / "config.yaml"), options.overrides)
    settings = config.tracking.model_copy(update={"uri": tracking_uri(config)})
    report = sync(folder, settings)
    Console().print(
        f"sent {report.num_events_sent} events, {report.num_metrics_sent} metric points and "
        f"{report.num_artefacts_sent} files to {public_uri(settings.uri or '')}",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
