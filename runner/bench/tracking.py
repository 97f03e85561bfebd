"""Training time with an available and with an unavailable tracking server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from runner.bench.measurements import BenchResult, Measurement, Target, ratio
from runner.bench.workbench import Workbench
from runner.experiment import read_benchmark
from runner.profiling.interleave import interleaved

START_TIMEOUT_S = 120.0


def measure(workbench: Workbench) -> BenchResult:
    """Measures fine-tuning on Ray with events sent to an MLflow server over HTTP."""
    read_benchmark(workbench.config("finetune"))
    with tracking_server(workbench.folder / "server") as alive:
        dead = f"http://127.0.0.1:{free_port()}"
        seconds = interleaved(
            {
                "alive": lambda: _training_s(workbench, alive),
                "dead": lambda: _training_s(workbench, dead),
            },
            workbench.repeats,
        )
    measurements = {
        variant: Measurement(f"tracking.{variant}.training", "s", tuple(values))
        for variant, values in seconds.items()
    }
    slowdown = ratio(
        "tracking.dead / alive", measurements["dead"], measurements["alive"], Target("<=", 1.1)
    )
    return BenchResult(tuple(measurements.values()), (slowdown,))


def _training_s(workbench: Workbench, uri: str) -> float:
    trace = workbench.run("finetune", "cluster.num_workers=1", f"tracking.uri={uri}")
    return trace.results["timings"]["training_s"]


def free_port() -> int:
    """Returns an unused local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """Runs a local MLflow server while the context is open and returns its URI.

    Raises:
        RuntimeError: the server does not answer within two minutes; the message contains its log.
    """
    folder.mkdir(parents=True)
    port = free_port()
    log_file = folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with log_file.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, server, log_file)
        yield f"http://127.0.0.1:{port}"
    finally:
        # The server starts child processes, so kill the whole session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    log = log_file.read_text()[-2000:]
    raise RuntimeError(f"the MLflow server did not start within {START_TIMEOUT_S:g} s:\n{log}")
