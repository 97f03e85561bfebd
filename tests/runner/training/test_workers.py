"""Two workers reach the scores of one worker with the same global batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.config.run_config import RunConfig
from runner.experiment import run_experiment

MakeConfig = Callable[..., RunConfig]

pytestmark = pytest.mark.slow

OVERRIDES = (
    "backbone.weights=warm",  # random weights hardly learn on look-alikes
    "benchmark.synthetic.num_unseen_domains=2",
    "benchmark.synthetic.num_train_identities=34",
    "benchmark.synthetic.num_test_identities=40",
    "benchmark.synthetic.num_cameras=4",
    "data.persons_per_batch=8",
    "data.images_per_person=4",
    "learner.mtad_identity.epochs=3",
    "learner.icar.epochs=8",
    # All of the 4 CPUs except the share of a decoding task: no task may need a whole free CPU.
    "cluster.cpus_per_worker=1.875",
)


def test_two_workers_reach_the_scores_of_one(
    ray_session: None, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """One worker runs in this process, which is bit-equal to one Ray worker (test_loop.py)."""

    def summary(num_workers: int) -> dict[str, Any]:
        storage = tmp_path / f"workers-{num_workers}"
        workers = f"cluster.num_workers={num_workers}"
        results = run_experiment(tiny_config(storage, "vladr", *OVERRIDES, workers)).results
        before = results["scores"]["mAP"][0]
        return results["summary"] | {"untrained_mAP": sum(before[:2]) / 2}

    one, two = summary(0), summary(2)
    assert one["seen_mAP"] > one["untrained_mAP"] + 5, "the training must improve mAP"
    for name in ("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1"):
        assert two[name] == pytest.approx(one[name], abs=1.0), name
