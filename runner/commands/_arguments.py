"""Arguments shared by several commands. An option has the same meaning in every command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.analysis.trained_run import TrainedRun
    from runner.config.run_config import RunConfig
    from tasks.benchmarks import BenchmarkConfig


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --json and --quiet."""
    parser.add_argument(
        "--json", action="store_true", help="print only one JSON document to stdout"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print results and errors only: no progress, no hints"
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and the overrides that define a run configuration."""
    parser.add_argument(
        "--preset", default="demo", help="name of a preset, or a YAML file (default: demo)"
    )
    add_overrides(parser, "configuration overrides, such as seed=1")


def add_values_files(parser: argparse.ArgumentParser) -> None:
    """Adds --with, files of settings that are laid over the preset."""
    parser.add_argument(
        "--with", dest="values_files", action="append", default=[], metavar="FILE",
        help="YAML file of settings laid over the preset, such as best-values.yaml of a sweep; "
        "may be repeated; key=value wins",
    )  # fmt: skip


def all_overrides(options: argparse.Namespace) -> list[str]:
    """Overrides of the files of --with, then those of the command line."""
    from runner.config.values_file import read_values

    of_files = [override for file in options.values_files for override in read_values(Path(file))]
    return [*of_files, *options.overrides]


def add_overrides(parser: argparse.ArgumentParser, description: str) -> None:
    """Adds positional `key=value` overrides."""
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=description)


def add_runs_folder(parser: argparse.ArgumentParser) -> None:
    """Adds --runs, the folder in which run names are looked up, as `options.runs_folder`."""
    parser.add_argument(
        "--runs", dest="runs_folder", default="runs", metavar="DIR",
        help="folder of runs (default: runs)",
    )  # fmt: skip
    add_renamed(parser, "--storage", "--runs")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the name of one run."""
    parser.add_argument(
        "run", metavar="RUN",
        help="folder of a run; or its name in the folder of runs, the beginning of its name, "
        "or `latest`",
    )  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and the arguments of its trained model."""
    add_run(parser)
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of runs, the checkpoint to load and the device."""
    add_weights_arguments(parser)
    add_gpu(parser)


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of runs and the checkpoint to load."""
    add_runs_folder(parser)
    add_after(parser)
    parser.add_argument(
        "--checkpoint", choices=("last", "validation"), default="last",
        help="last: end of training; validation: epoch selected on validation identities "
        "(default: last)",
    )  # fmt: skip


def add_after(parser: argparse.ArgumentParser) -> None:
    """Adds --after, the domain whose checkpoint is loaded."""
    parser.add_argument(
        "--after", metavar="DOMAIN", help="use the model after this domain (default: the last)"
    )


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Adds --gpu."""
    parser.add_argument("--gpu", action="store_true", help="compute on the first CUDA device")


def add_domains(parser: argparse.ArgumentParser, description: str) -> None:
    """Adds --domain with one or more names; overrides may follow the names."""
    parser.add_argument(
        "--domain", action="extend", nargs="+", default=[], metavar="NAME", help=description
    )


def add_renamed(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Makes an old spelling of an option an error that names the new spelling."""
    parser.add_argument(old, action=_Renamed, nargs="?", const=new, help=argparse.SUPPRESS)


class _Renamed(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is now {self.const}")


def split_overrides(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separates names and paths from `key=value` overrides.

    A word is an override if it has `=` and no `/` before it, so paths that contain `=` are names.

    Returns:
        Names, overrides.
    """
    names: list[str] = []
    overrides: list[str] = []
    for word in words:
        key, separator, _ = word.partition("=")
        (overrides if separator and "/" not in key else names).append(word)
    return names, overrides


def load_trained_run(options: argparse.Namespace) -> TrainedRun:
    """Loads the trained model that `add_run_arguments` selects, a run or an exported model."""
    from runner.analysis.export.exported_model import load_model

    return load_model(
        options.run,
        options.runs_folder,
        after=options.after,
        checkpoint=options.checkpoint,
        use_gpu=options.gpu,
    )


def benchmark_settings(config: RunConfig, data: str | Path | None) -> BenchmarkConfig:
    """Benchmark settings of a configuration, with the folder of the data sets from --data."""
    from runner.experiment import resolve_folders

    settings = config.benchmark
    if data is not None:
        settings = settings.model_copy(update={"root": os.path.abspath(data)})
    return resolve_folders(settings)


def index_folder(run: Path, checkpoint: str) -> Path:
    """Default folder of a run's gallery index; each checkpoint has its own."""
    return run / ("index" if checkpoint == "last" else f"index-{checkpoint}")


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    return _at_least(1, text)


def non_negative(text: str) -> int:
    """Parses an integer of at least 0."""
    return _at_least(0, text)


def _at_least(minimum: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < minimum:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, got {text!r}")
    return value
