"""Job submission with `ray start --head` and `ray job submit`, as in the README."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

MakeArguments = Callable[..., list[str]]

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
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


@contextlib.contextmanager
def started_head(
    run_environment: dict[str, str],
    num_cpus: int = 2,
    autoscaling: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, str]]:
    """Starts a head node with token authentication; yields the environment of its clients.

    Args:
        run_environment: environment of the processes.
        num_cpus: number of CPUs that the node reports.
        autoscaling: node types that an autoscaler may add on this machine; None for no autoscaler.
    """
    # Not in the folder of pytest, because paths of Unix sockets have a length limit.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, client, agent, metrics, runtime = free_ports(6)
    environment = run_environment | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
    }
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]
    command += ["--object-store-memory=300000000", f"--temp-dir={folder / 'ray'}"]
    started = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    if autoscaling is not None:
        file = folder / "autoscaling.yaml"
        file.write_text(yaml.safe_dump(autoscaler_file(f"127.0.0.1:{gcs}", autoscaling)))
        command.append(f"--autoscaling-config={file}")
        started |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    try:
        with running(command, started, folder / "head.log") as process:
            wait_until_open(dashboard, process, folder / "head.log")
            yield environment | {"GCS_ADDRESS": f"127.0.0.1:{gcs}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(
    command: list[str], environment: Mapping[str, str], log_file: Path
) -> Iterator[psutil.Popen]:
    """Runs a process and kills it with all its descendants at the end.

    `ray stop` would stop every Ray cluster of this machine.
    """
    with log_file.open("wb") as log:
        process = psutil.Popen(command, env=dict(environment), stdout=log, stderr=log)
    try:
        yield process
    finally:
        family = [*process.children(recursive=True), process]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=30)


def autoscaler_file(gcs_address: str, node_types: Mapping[str, Any]) -> dict[str, Any]:
    """Builds a cluster file whose nodes are local processes (Ray's provider for tests)."""
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    commands += ("head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "test",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs_address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            **node_types,
        },
        **{f"{command}_commands": [] for command in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@pytest.fixture(scope="module")
def head(run_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Head node; the value is the environment of its clients."""
    with started_head(run_environment) as environment:
        yield environment


@pytest.fixture
def two_nodes(run_environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two nodes with one CPU each; the value is the environment of their clients."""
    with started_head(run_environment, num_cpus=1) as head:
        agent, metrics, runtime = free_ports(3)
        command = [RAY, "start", f"--address={head['GCS_ADDRESS']}", "--block", "--num-cpus=1"]
        command += ["--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]
        command += ["--object-store-memory=300000000", "--disable-usage-stats"]
        # A separate folder, as on a separate machine. In the folder of the head, the second node
        # would unpack the code of the job again and delete the current folder of the driver.
        command.append(f"--temp-dir={head['HOME']}/2")
        environment = {name: value for name, value in head.items() if name != "RAY_ADDRESS"}
        with running(command, environment, tmp_path / "node.log"):
            yield head


@pytest.fixture
def autoscaled_head(run_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Head node whose autoscaler may add one node with four CPUs."""
    worker = {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 1}
    with started_head(run_environment, autoscaling={"worker": worker}) as environment:
        yield environment


def wait_until_open(port: int, process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(log.read_text())


def submitted(
    environment: Mapping[str, str], arguments: list[str], **job_variables: str
) -> subprocess.CompletedProcess[str]:
    """Submits `lifelong.py` with `ray job submit` and waits for the end of the job."""
    submit = [RAY, "job", "submit", "--working-dir", "."]
    if job_variables:
        submit += ["--runtime-env-json", json.dumps({"env_vars": job_variables})]
    return subprocess.run(
        [*submit, "--", "python", "runner/lifelong.py", *arguments],
        cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_a_submitted_job(
    head: dict[str, str], tiny_arguments: MakeArguments, tmp_path: Path
) -> None:
    """By default, a job stores its runs in ~/lifelong-reid, because its folder is temporary."""
    arguments = tiny_arguments(tmp_path, "finetune", "cluster.num_workers=1")
    arguments = [each for each in arguments if not each.startswith("storage.root=")]
    done = submitted(head, arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = Path(head["HOME"], "lifelong-reid", "runs").glob("*/results.json")
    assert json.loads(results.read_text())["domains"]["seen"] == ["plaza", "station"]
    assert "Results" in done.stdout


def test_a_submitted_sweep_runs_on_two_nodes(
    two_nodes: dict[str, str], tiny_arguments: MakeArguments, tmp_path: Path
) -> None:
    """A trial uses the only CPU of a node, so two concurrent trials need both nodes."""
    preset = tiny_arguments(tmp_path, "vladr", "cluster.wait_s=60")
    arguments = [each for each in preset if not each.startswith("storage.root=")]
    sweep = ["sweep", "search_spaces/smoke.yaml", "--name", "two-nodes", "--trials", "2"]
    sweep += ["--concurrent", "2", "--sampler", "random", "--scheduler", "none"]
    done = submitted(two_nodes, [*sweep, *arguments], LIFELONG_REID_HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = tmp_path / "sweeps" / "two-nodes"
    first, second = (json.loads(file.read_text()) for file in folder.glob("trials/*/trial.json"))
    assert first["state"] == second["state"] == "finished"
    assert max(first["began"], second["began"]) < min(first["ended"], second["ended"])
    for file in folder.glob("trials/*/trial.json"):
        assert list(file.parent.glob("*/results.json"))
    assert (folder / "best.yaml").is_file()


def test_a_wrong_token_is_rejected(head: dict[str, str]) -> None:
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


def test_a_run_waits_for_an_autoscaled_node(
    autoscaled_head: dict[str, str], tiny_arguments: MakeArguments, tmp_path: Path
) -> None:
    """With Ray's autoscaler: rejected immediately, or run on a second node."""
    wide = ("cluster.num_workers=1", "cluster.cpus_per_worker=3")
    arguments = tiny_arguments(tmp_path, "finetune", *wide)
    environment = autoscaled_head | {"RAY_ADDRESS": autoscaled_head["GCS_ADDRESS"]}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "runner" / "lifelong.py"), *arguments, *more]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    rejected = run()
    assert rejected.returncode == 2
    assert "do not fit 2 available CPUs" in rejected.stderr
    done = run("cluster.wait_s=90")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list(tmp_path.glob("*/results.json"))
