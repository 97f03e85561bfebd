"""`ray start --head`, then `ray job submit`, as the README says it, on a head of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

MakeArguments = Callable[..., list[str]]

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def head(run_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A head node with token authentication; gives the environment of its clients."""
    # Not below pytest's folder: the paths of Unix sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, client, agent, metrics, runtime = free_ports(6)
    environment = run_environment | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
    }
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]
    command += ["--object-store-memory=300000000", f"--temp-dir={folder / 'ray'}"]
    started = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with (folder / "head.log").open("wb") as log:
        process = psutil.Popen(command, env=started, stdout=log, stderr=log)
    try:
        wait_until_open(dashboard, process, folder / "head.log")
        yield environment
    finally:
        # `ray stop` would end every Ray of this machine; this ends what the head has started.
        family = [*process.children(recursive=True), process]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_open(port: int, process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(log.read_text())


def test_a_submitted_job_runs_to_its_end(
    head: dict[str, str], tiny_arguments: MakeArguments, tmp_path: Path
) -> None:
    """Where nothing is set, a job keeps its runs in ~/lifelong-reid: its folder is temporary."""
    arguments = tiny_arguments(tmp_path, "finetune", "cluster.num_workers=1")
    arguments = [each for each in arguments if not each.startswith("storage.root=")]
    submit = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "runner/lifelong.py"]
    done = subprocess.run(
        [*submit, *arguments], cwd=ROOT, env=head,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = Path(head["HOME"], "lifelong-reid", "runs").glob("*/results.json")
    assert json.loads(results.read_text())["domains"]["seen"] == ["plaza", "station"]
    assert "Results" in done.stdout


def test_a_wrong_token_is_refused(head: dict[str, str]) -> None:
    environment = head | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [RAY, "job", "list"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
