"""Send the events of a run to MLflow that could not be sent during the run."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from runner.commands._arguments import (
    add_output_arguments,
    add_overrides,
    add_run,
    add_runs_folder,
)
from runner.commands._output import Output

HELP = "send unsent events of a run to MLflow"
EXAMPLE = "RUN tracking.uri=http://localhost:5000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `sync`."""
    add_run(parser)
    add_runs_folder(parser)
    add_overrides(parser, "overrides of the run's configuration, such as tracking.uri=...")
    add_output_arguments(parser)


def main(options: argparse.Namespace, output: Output) -> int:
    """Sends the events and prints how many were sent."""
    from runner.config.run_config import load_config
    from runner.experiment import tracking_uri
    from runner.results.run_lookup import find_run
    from runner.tracking.mlflow_client import public_uri
    from runner.tracking.tracker import sync

    values = dict(override.partition("=")[::2] for override in options.overrides)
    folder = find_run(options.run, values.get("storage.root", options.runs_folder))
    config = load_config(str(folder / "config.yaml"), options.overrides)
    settings = config.tracking.model_copy(update={"uri": tracking_uri(config)})
    report = sync(folder, settings)
    uri = public_uri(settings.uri or "")
    output.write_json({"folder": str(folder), "uri": uri, **asdict(report)})
    output.results.print(
        f"sent {report.num_events_sent} events, {report.num_metrics_sent} metric points and "
        f"{report.num_artefacts_sent} files to {uri}",
        soft_wrap=True,
    )
    return 0
