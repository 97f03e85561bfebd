"""Small runs of four learners whose losses and scores are stored beside this file.

`python tests/golden/golden_runs.py` computes them and writes `<learner>.json` files into the folder
given as the only argument; without one it replaces the stored files. Replace them only in a change
that is meant to change results, and say so in the commit.

The kernels of PyTorch and MKL depend on the processor. The variables below select the versions that
every x86-64 processor has, so that the stored bits hold on most machines.
"""

from __future__ import annotations

import os

os.environ.update(
    {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
    }
)

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

OVERRIDES = (
    "backbone.weights=random",
    "cluster.num_workers=0",
    "cluster.threads_per_worker=1",
    "tracking.uri=null",
    "data.persons_per_batch=4",
    "data.images_per_person=2",
    "benchmark.num_validation_identities=2",
    "benchmark.synthetic.num_seen_domains=2",
    "benchmark.synthetic.num_unseen_domains=1",
    "benchmark.synthetic.num_train_identities=10",
    "benchmark.synthetic.num_unseen_validation_identities=2",
    "benchmark.synthetic.num_test_identities=6",
    "benchmark.synthetic.num_cameras=2",
    "benchmark.synthetic.supersampling=1",
)
LEARNERS = {
    "finetune": ("learner.epochs=2", "learner.interpolation.mode=adaptive"),
    "vladr": (
        "learner.mtad_identity.epochs=1",
        "learner.mtad_attribute.epochs=1",
        "learner.icar.epochs=2",
        "learner.alignment=[affinity,prototype,prototype_relation,identity_prototype]",
    ),
    "krkc": ("learner.epochs=2",),
    "bdam": (
        "learner.epochs=2",
        "learner.losses.adversarial.projection=own",
        "learner.decoupling.dim=16",
        "learner.fusion.dim=16",
    ),
}


def golden_run(learner: str, folder: Path) -> dict[str, Any]:
    """Scores and per-iteration losses of one run, as JSON values that keep every bit."""
    from runner.config.run_config import load_config
    from runner.experiment import run_experiment
    from runner.tracking.event_log import read_events

    places = (f"storage.root={folder / 'runs'}", f"benchmark.root={folder / 'data'}")
    config = load_config(f"demo-{learner}", (*OVERRIDES, *LEARNERS[learner], *places))
    run = run_experiment(config)
    iterations = [
        {name: event[name] for name in ("iteration", "stage", "loss", "terms", "lr")}
        for event in read_events(run.folder / "events.jsonl").events
        if event["event"] == "iteration"
    ]
    return {
        "learner": learner,
        "scores": run.results["scores"],
        "validation": run.results["validation"],
        "iterations": iterations,
    }


def main(target: Path) -> None:
    """Computes every golden run and writes it to `target`."""
    torch.backends.mkldnn.enabled = False
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        for learner in LEARNERS:
            text = json.dumps(golden_run(learner, Path(folder)), indent=1, sort_keys=True)
            (target / f"{learner}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
