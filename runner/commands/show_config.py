"""`show-config`: the whole validated configuration of a run, as YAML."""

from __future__ import annotations

import argparse

from runner.commands.run import add_config_arguments

HELP = "print the whole validated configuration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Preset and overrides."""
    add_config_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Prints it with the run's name; returns the exit status."""
    from runner.config.run_config import load_config, to_yaml

    config = load_config(options.preset, options.overrides)
    print(f"# run name: {config.run_name}")
    print(to_yaml(config), end="")
    return 0
