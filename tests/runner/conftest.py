"""Runs of two seconds: a benchmark of a handful of people, drawn once, and a random backbone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.config import RunConfig, load_config

MakeArguments = Callable[..., list[str]]
"""(storage folder, learner, further overrides) -> arguments of `lifelong.py run`."""

MakeConfig = Callable[..., RunConfig]
"""(storage folder, learner, further overrides) -> the configuration of the same run."""

BENCHMARK = {
    "num_validation_identities": 2,
    "synthetic.num_seen_domains": 2,
    "synthetic.num_unseen_domains": 1,
    "synthetic.num_train_identities": 10,
    "synthetic.num_unseen_validation_identities": 2,
    "synthetic.num_test_identities": 6,
    "synthetic.num_cameras": 2,
    "synthetic.supersampling": 1,
}
COMMON = ("backbone.weights=random", "data.persons_per_batch=4", "data.images_per_person=2")
SHORT = {
    "finetune": ("learner.epochs=2",),
    "vladr": (
        "learner.mtad_identity.epochs=1",
        "learner.mtad_attribute.epochs=1",
        "learner.icar.epochs=2",
    ),
}


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's synthetic people are drawn."""
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="session")
def tiny_arguments(people: Path) -> MakeArguments:
    """Arguments of a tiny run in this process; a later override wins over an earlier one."""

    def make(storage: Path, learner: str = "finetune", *overrides: str) -> list[str]:
        places = [f"storage.root={storage}", f"benchmark.root={people}"]
        sizes = [f"benchmark.{key}={value}" for key, value in BENCHMARK.items()]
        here = ["cluster.num_workers=0", "tracking.uri=null"]
        chosen = [*COMMON, *SHORT[learner], *places, *sizes, *here, *overrides]
        return ["--preset", f"demo-{learner}", *chosen]

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_arguments: MakeArguments) -> MakeConfig:
    """The configuration of a tiny run."""

    def make(storage: Path, learner: str = "finetune", *overrides: str) -> RunConfig:
        _, preset, *given = tiny_arguments(storage, learner, *overrides)
        return load_config(preset, given)

    return make


@pytest.fixture(scope="session")
def numbers_of() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What of results.json must be the same, to the last digit, however a run came about."""
    names = ("domains", "scores", "validation", "summary", "validation_summary", "num_iterations")
    return lambda results: {name: results[name] for name in names}


@pytest.fixture(scope="session")
def run_environment() -> dict[str, str]:
    """Environment of a run in a process of its own: no cluster of somebody else's, one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
