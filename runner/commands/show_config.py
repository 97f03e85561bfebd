"""Print the complete validated configuration of a run."""

from __future__ import annotations

import argparse

from runner.commands._arguments import (
    add_config_arguments,
    add_output_arguments,
    add_values_files,
    all_overrides,
)
from runner.commands._output import Output

HELP = "print the complete validated configuration"
EXAMPLE = "--preset vladr learner.icar.epochs=30"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `show-config`."""
    add_config_arguments(parser)
    add_values_files(parser)
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Prints the configuration as YAML, or as JSON, with the name of the run."""
    from runner.config.run_config import load_config, public_values, to_yaml

    config = load_config(options.preset, all_overrides(options))
    output.write_json({"run_name": config.run_name, "config": public_values(config)})
    if not output.as_json:
        print(f"# run name: {config.run_name}")
        print(to_yaml(config), end="")
    return 0
