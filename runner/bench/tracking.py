"""Training time with a tracking server that answers, against one that is dead from the start."""

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

from runner.bench.measurements import Aim, Findings, Measurement, ratio
from runner.bench.workbench import Workbench
from runner.experiment import read_benchmark
from runner.profiling.interleave import interleaved

START_TIMEOUT_S = 120.0


def measure(bench: Workbench) -> Findings:
    """The same fine-tuning on Ray, its events sent to a server over HTTP."""
    read_benchmark(bench.config("finetune"))
    with tracking_server(bench.folder / "server") as alive:
        dead = f"http://127.0.0.1:{free_port()}"
        found = interleaved(
            {
                "alive": lambda: _training_s(bench, alive),
                "dead": lambda: _training_s(bench, dead),
            },
            bench.repeats,
        )
    measured = {
        variant: Measurement(f"tracking.{variant}.training", "s", tuple(values))
        for variant, values in found.items()
    }
    slowdown = ratio("tracking.dead / alive", measured["dead"], measured["alive"], Aim("<=", 1.1))
    return Findings(tuple(measured.values()), (slowdown,))


def _training_s(bench: Workbench, uri: str) -> float:
    trace = bench.run("finetune", "cluster.num_workers=1", f"tracking.uri={uri}")
    return trace.results["timings"]["training_s"]


def free_port() -> int:
    """A local port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """An MLflow server of this machine, by its URI, while the context is open.

    Raises:
        RuntimeError: it does not answer within two minutes; the message ends with its log.
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
        # It starts processes of its own: all of the session ends.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the MLflow server did not start:\n{log_file.read_text()[-2000:]}")
