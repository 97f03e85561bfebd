"""Fixtures for runs of two seconds: a small synthetic benchmark and a random backbone."""

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
from runner.bench.outcomes import RESULTS
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
    """Folder of the synthetic data of the session."""
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="session")
def tiny_arguments(people: Path) -> MakeArguments:
    """Arguments of a tiny run in this process; a later override wins over an earlier one."""

    def make(storage: Path, learner: str = "finetune", *overrides: str) -> list[str]:
        folders = [f"storage.root={storage}", f"benchmark.root={people}"]
        sizes = [f"benchmark.{key}={value}" for key, value in BENCHMARK.items()]
        in_process = ["cluster.num_workers=0", "tracking.uri=null", "storage.report=false"]
        short = SHORT.get(learner, ("learner.epochs=2",))
        arguments = [*COMMON, *short, *folders, *sizes, *in_process, *overrides]
        return ["--preset", f"demo-{learner}", *arguments]

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_arguments: MakeArguments) -> MakeConfig:
    """The configuration of a tiny run."""

    def make(storage: Path, learner: str = "finetune", *overrides: str) -> RunConfig:
        _, preset, *arguments = tiny_arguments(storage, learner, *overrides)
        return load_config(preset, arguments)

    return make


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the figures of runs in this process, which take as long as the training."""
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)


@pytest.fixture(scope="session")
def numbers_of() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Selects the entries of results.json that must be bit-equal between equivalent runs."""
    return lambda results: {name: results[name] for name in RESULTS}


@pytest.fixture(scope="session")
def run_environment() -> dict[str, str]:
    """Environment of a run in a separate process: no other Ray cluster, one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Driver:
    """`lifelong.py run` in a separate process, with all its descendants.

    Attributes:
        process: the driver.
        events_file: event log of the run.
        log_file: output of the driver.
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
        """Returns the driver and all its descendants, including processes of Ray.

        Processes of earlier calls are included, because they may outlive the driver.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(self.process.children(recursive=True))
        return [self.process, *self._family]

    def wait_for_event(self, timeout_s: float = 180, **fields: Any) -> None:
        """Waits until the event log contains an event with these fields.

        Raises:
            AssertionError: the driver ended, or the timeout passed, without such an event.
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
        """Waits until the driver ends successfully."""
        assert self.process.wait(timeout_s) == 0, self.log()

    def log(self) -> str:
        """Returns the end of the output, for failed tests."""
        return self.log_file.read_text()[-4000:]


@pytest.fixture
def start_driver(
    tiny_config: MakeConfig,
    tiny_arguments: MakeArguments,
    run_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Callable[..., Driver]]:
    """Starts drivers of tiny runs; kills all remaining processes at the end."""
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
    """Functions that start and stop `mlflow server`; each start uses the same port and files."""
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
