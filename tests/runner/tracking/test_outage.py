"""A tracking server dies during a run: training continues, and `sync` sends the rest once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.lifelong import main

StartDriver = Callable[..., Any]
Server = tuple[Callable[[], str], Callable[[], None]]

pytestmark = pytest.mark.slow


def test_sync_completes_after_server_dies(
    mlflow_server: Server,
    start_driver: StartDriver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, stop = mlflow_server
    uri = start()
    overrides = (
        "cluster.num_workers=1",
        f"tracking.uri={uri}",
        "tracking.drain_interval_s=0.1",
        "learner.epochs=20",
    )
    driver = start_driver(tmp_path, "finetune", *overrides)
    driver.wait_for_event(event="iteration", domain_index=1)
    stop()
    driver.finish()
    folder = driver.events_file.parent
    results = json.loads((folder / "results.json").read_text())
    message = re.sub(r"\s+", " ", driver.log())
    assert "Training continues" in message
    assert "sends this run to MLflow" in message
    assert start() == uri
    assert main(["sync", str(folder)]) == 0
    assert re.search(r"sent [1-9]\d* events, [1-9]\d* metric points", capsys.readouterr().out)
    assert main(["sync", str(folder)]) == 0
    assert "sent 0 events, 0 metric points and 0 files" in capsys.readouterr().out
    check_delivered(uri, results)


def check_delivered(uri: str, results: dict[str, Any]) -> None:
    """Checks that every iteration of every metric and every cell of the matrix is stored once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lifelong-reid")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    domains = {run.data.tags["domain"]: run for run in runs if "domain" in run.data.tags}
    (parent,) = [run for run in runs if "domain" not in run.data.tags]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    seen = Counter[int]()
    for run in domains.values():
        for name in ("loss", "lr", "images_per_s", "term/identity", "term/triplet"):
            points = client.get_metric_history(run.info.run_id, f"finetune/{name}")
            steps = [point.step for point in points]
            assert len(steps) == results["num_iterations"] / len(domains), name
            seen.update(steps)
    assert seen == Counter(dict.fromkeys(range(results["num_iterations"]), 5))
    columns = results["domains"]["seen"] + results["domains"]["unseen"]
    for column, name in enumerate(columns):
        points = client.get_metric_history(parent.info.run_id, f"test/mAP/{name}")
        assert {point.step: point.value for point in points} == {
            step: row[column] for step, row in enumerate(results["scores"]["mAP"])
        }
        assert len(points) == len(results["scores"]["mAP"])
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files >= {"results.json", "config.yaml", "protocol.lock.json", "matrix.png"}
