"""`sync`: sends to MLflow what a run could not send while it went on."""

from __future__ import annotations

import argparse

from rich.console import Console

HELP = "send to MLflow what a run could not send"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, overrides."""
    parser.add_argument("run", help="a run's name under storage.root, or its folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as tracking.uri=..."
    )


def main(options: argparse.Namespace) -> int:
    """Sends it and says how much; returns the exit status."""
    from runner.config.run_config import load_config
    from runner.experiment import tracking_uri
    from runner.results.run_folder import find_run
    from runner.tracking.mlflow_client import public_uri
    from runner.tracking.tracker import sync

    given = dict(override.partition("=")[::2] for override in options.overrides)
    folder = find_run(options.run, given.get("storage.root", "runs"))
    config = load_config(str(folder / "config.yaml"), options.overrides)
    settings = config.tracking.model_copy(update={"uri": tracking_uri(config)})
    report = sync(folder, settings)
    Console().print(
        f"sent {report.num_events_sent} events, {report.num_metrics_sent} metric points and "
        f"{report.num_artefacts_sent} files to {public_uri(settings.uri or '')}",
        soft_wrap=True,
    )
    return 0
