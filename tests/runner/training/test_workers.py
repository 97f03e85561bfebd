"""Two workers against one at the same global batch: the same learning, up to rounding."""

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
    "benchmark.synthetic.num_unseen_domains=2",
    "benchmark.synthetic.num_train_identities=34",
    "benchmark.synthetic.num_test_identities=40",
    "benchmark.synthetic.num_cameras=4",
    "data.persons_per_batch=8",
    "data.images_per_person=4",
    "learner.mtad_identity.epochs=3",
    "learner.icar.epochs=8",
    # All but a decoder's share of the session's 4 CPUs, as on a machine of two: nothing may wait
    # for a CPU that is never free.
    "cluster.cpus_per_worker=1.875",
)


def test_two_workers_learn_what_one_learns(
    ray_session: None, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """One worker is this process, whose numbers are those of a Ray worker (test_loop.py)."""

    def summary(num_workers: int) -> dict[str, Any]:
        storage = tmp_path / f"workers-{num_workers}"
        workers = f"cluster.num_workers={num_workers}"
        results = run_experiment(tiny_config(storage, "vladr", *OVERRIDES, workers)).results
        before = results["scores"]["mAP"][0]
        return results["summary"] | {"untrained_mAP": sum(before[:2]) / 2}

    one, two = summary(0), summary(2)
    assert one["seen_mAP"] > one["untrained_mAP"] + 5, "nothing was learned to be compared"
    for name in ("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1"):
        assert two[name] == pytest.approx(one[name], abs=1.0), name
