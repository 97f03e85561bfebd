"""Runs of two seconds: a benchmark of a handful of people, drawn once, and a random backbone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import experiment
from runner.config.run_config import RunConfig, load_config
from runner.tracking.event_log import read_events

LIFELONG = Path(__file__).parents[2] / "runner" / "lifelong.py"

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
    "clip_reid": ("learner.epochs=2", "learner.prompts.epochs=1"),
    "dask": ("learner.epochs=2", "learner.style.epochs=1"),
    "bdam": (
        *("learner.epochs=2", "learner.text_tower=frozen", "backbone.name=tiny-clip"),
        *("learner.decoupling.dim=16", "learner.fusion.mixer=simple", "learner.fusion.dim=16"),
    ),
    "zero_shot": (),
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
        short = SHORT.get(learner, ("learner.epochs=2",))
        chosen = [*COMMON, *short, *places, *sizes, *here, *overrides]
        return ["--preset", f"demo-{learner}", *chosen]

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_arguments: MakeArguments) -> MakeConfig:
    """The configuration of a tiny run."""

    def make(storage: Path, learner: str = "finetune", *overrides: str) -> RunConfig:
        _, preset, *given = tiny_arguments(storage, learner, *overrides)
        return load_config(preset, given)

    return make


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test's runs in this process their pictures, which take as long as the training."""
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)


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


class Driver:
    """`lifelong.py run` in a process of its own, with all that it starts.

    Attributes:
        process: the driver.
        events_file: the run's spool.
        log_file: what the driver said.
    """

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], folder: Path, log_file: Path
    ) -> None:
        self.events_file = folder / "events.jsonl"
        self.log_file = log_file
        self._family = set[psutil.Process]()
        with log_file.open("ab") as log:
            self.process = psutil.Popen(
                [sys.executable, str(LIFELONG), *arguments],
                env=dict(environment), stdout=log, stderr=log,
            )  # fmt: skip

    def family(self) -> list[psutil.Process]:
        """The driver and every process that descends from it, Ray's among them.

        Those of an earlier call that may live on without the driver are in it too.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(self.process.children(recursive=True))
        return [self.process, *self._family]

    def wait_for_event(self, timeout_s: float = 180, **fields: Any) -> None:
        """Waits until the spool holds an event with these fields.

        Raises:
            AssertionError: the driver ended, or the time passed, without one.
        """
        deadline = time.monotonic() + timeout_s
        offset = 0
        while True:
            events, offset, _ = read_events(self.events_file, offset)
            if any(fields.items() <= event.items() for event in events):
                return
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def finish(self, timeout_s: float = 240) -> None:
        """Waits for the end, which must be a good one."""
        assert self.process.wait(timeout_s) == 0, self.log()

    def log(self) -> str:
        """What the driver said, for a test that fails."""
        return self.log_file.read_text()[-4000:]


@pytest.fixture
def start_driver(
    tiny_config: MakeConfig,
    tiny_arguments: MakeArguments,
    run_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Callable[..., Driver]]:
    """Starts drivers of tiny runs; whatever of them is still alive at the end is ended."""
    drivers: list[Driver] = []

    def start(storage: Path, learner: str, *overrides: str) -> Driver:
        folder = storage / tiny_config(storage, learner, *overrides).run_name
        arguments = tiny_arguments(storage, learner, *overrides)
        drivers.append(Driver(arguments, run_environment, folder, tmp_path / "driver.log"))
        return drivers[-1]

    yield start
    for process in [each for driver in drivers for each in driver.family()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[tuple[Callable[[], str], Callable[[], None]]]:
    """Starts `mlflow server` on a port and stops it again; the same files at every start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        with (tmp_path / "server.log").open("ab") as log:
            running.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return f"http://127.0.0.1:{port}"
            time.sleep(0.2)
        raise TimeoutError((tmp_path / "server.log").read_text())

    def stop() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    yield start, stop
    stop()
