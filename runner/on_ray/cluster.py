"""Runs on a Ray cluster: connection, resource checks, and one Ray Train fit per run.

One fit trains all domains, because a fit per domain would spend 15 s on starting processes each
time. Each domain has its own checkpoints; the death of a worker costs at most one epoch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from runner.config.disk_space import DiskFullError
from runner.config.run_config import RunConfig, validate
from runner.on_ray.failures import (
    DIED,
    cluster_message,
    died_while_starting,
    failure_message,
    reason,
)
from runner.on_ray.image_stream import RayStream, serve_stream
from runner.on_ray.prototype_actor import RayPrototypeStore, serve_prototypes
from runner.on_ray.resources import (
    MIN_WORKER_CPUS,
    start_timeout,
    wait_for_resources,
    worker_bundles,
)
from runner.results.run_folder import RunStorage
from runner.streaming.decoded_cache import SharedFiles
from runner.training.collectives import DistributedGroup, LocalGroup
from runner.training.termination import (
    FileRequest,
    RunFailedError,
    on_sigterm,
    raise_terminated,
    stop_workers,
)
from runner.training.worker import run_worker
from tasks.schema import Benchmark

ROOT = Path(__file__).resolve().parents[2]
CONNECT_TIMEOUT_S = 10.0


def run_on_ray(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    first_domain: int,
    shared: SharedFiles | None = None,
) -> dict[str, Any]:
    """Trains on `cluster.num_workers` Ray Train workers and returns the result of rank 0.

    Args:
        config: configuration of the run.
        benchmark: domains of the run; workers get them from the object store.
        storage: folder of the run, which must be writable by every worker.
        attempt: number of this start of the run.
        first_domain: index of the first domain to train, which is decoded first.
        shared: images that are already decoded.

    Raises:
        ValueError: the workers do not fit the cluster, or a worker raised it.
        FloatingPointError: the loss is NaN or infinite.
        DiskFullError: the storage is full.
        RunFailedError: workers failed more often than cluster.max_failures.
    """
    height, width = config.backbone.image_height, config.backbone.image_width
    with connected(config):
        resources = wait_for_resources(worker_bundles(config), config.cluster.wait_s)
        cpus = worker_cpus(config, resources)
        with (
            serve_prototypes(config.run_name),
            serve_stream(
                config.run_name,
                benchmark,
                config.data,
                height,
                width,
                storage.unreadable_file,
                first_domain,
                shared.decoder() if shared else None,
            ),
        ):
            outcome = _fit(config, benchmark, storage, attempt, cpus, shared)
    if "errno" in outcome:
        raise DiskFullError(outcome["errno"], outcome["error"])
    if "error" in outcome:
        kind = FloatingPointError if outcome["kind"] == "FloatingPointError" else ValueError
        raise kind(outcome["error"])
    return outcome


@contextlib.contextmanager
def connected(config: RunConfig) -> Iterator[None]:
    """Connects to the configured cluster, or starts a local one, and disconnects at the end.

    Does nothing in a process that is already connected, such as a trial of a sweep.

    Raises:
        ValueError: the workers do not fit the CPUs of the local machine.
        ConnectionError: the cluster is not reachable.
    """
    if ray.is_initialized():
        yield
        return
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    quiet_ray()
    settings: dict[str, Any] = {}
    if address == "local":
        # An actor that waits for a notice that a node will be taken away; this machine gets none.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        resources = {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
        worker_cpus(config, resources)
        settings = {
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": int(config.cluster.object_store_gb * 1e9),
            "include_dashboard": False,
        }
    try:
        _check_reachable(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_environment()},
            **settings,
        )
    except Exception as error:
        if address == "local":  # ray.init raises a plain Exception if a process does not start
            raise RunFailedError(
                f"Ray could not start on this machine: {reason(error)}. Often it has too little "
                "memory or is overloaded; cluster.num_workers=0 runs without Ray"
            ) from error
        raise ConnectionError(
            f"cluster.address: expected a Ray cluster at {address!r}, got no answer ({error}); "
            "start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
        ) from error
    try:
        # `ray.init` replaces the handler of SIGTERM.
        with on_sigterm(raise_terminated):
            yield
    except DIED as error:
        raise RunFailedError(cluster_message(error, address)) from error
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Opens a connection to the cluster, because `ray.init` would time out only after 2 minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def worker_cpus(config: RunConfig, resources: Mapping[str, float]) -> float:
    """Returns the Ray CPUs per worker such that all workers and one decoding task fit.

    Raises:
        ValueError: they do not fit the resources.
    """
    cluster, decode = config.cluster, config.data.decode_cpus
    available = resources.get("CPU", 0.0)
    default = min(1.0, (available - decode) / cluster.num_workers)
    cpus = cluster.cpus_per_worker or default
    max_workers = int((available - decode) / (cluster.cpus_per_worker or MIN_WORKER_CPUS))
    if cpus < MIN_WORKER_CPUS or cluster.num_workers * cpus + decode > available:
        raise ValueError(
            f"cluster.num_workers: {cluster.num_workers} workers of "
            f"{cluster.cpus_per_worker or MIN_WORKER_CPUS:g} CPUs and data.decode_cpus={decode:g} "
            f"do not fit {available:g} available CPUs; use at most {max(max_workers, 0)} workers"
        )
    if cluster.use_gpu and resources.get("GPU", 0.0) < cluster.num_workers:
        raise ValueError(
            f"cluster.use_gpu: expected at least {cluster.num_workers} GPUs, one per worker, got "
            f"{resources.get('GPU', 0.0):g}; lower cluster.num_workers, set cluster.use_gpu=false, "
            "or set cluster.wait_s if an autoscaler adds nodes"
        )
    return cpus


def quiet_ray() -> None:
    """Reduces Ray's console output to warnings, because the run shows its own progress."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _worker_environment() -> dict[str, str]:
    # In a submitted job, Ray adds the uploaded folder to the Python path of every node.
    in_job = "working_dir_files" in ROOT.parts
    return {} if in_job else {"PYTHONPATH": str(ROOT)}


def _fit(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    cpus: float,
    shared: SharedFiles | None,
) -> dict[str, Any]:
    cluster = config.cluster
    os.environ.update(start_timeout(cluster.wait_s))
    parameters = {
        "config": config.model_dump(mode="json"),
        "benchmark": [ray.put(benchmark)],
        "folder": str(storage.folder),
        "attempt": attempt,
        "shared": shared,
    }
    with stop_workers(storage.stop_file), _interrupt_by_ctrl_c():
        for number in range(cluster.max_failures + 1):
            # A new name for each start: the training loop resumes from its own checkpoints.
            name = f"start-{attempt}" + (f"-{number}" if number else "")
            trainer = _trainer(config, storage, parameters, cpus, name)
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                if number < cluster.max_failures and died_while_starting(error):
                    continue
                raise RunFailedError(failure_message(error, cluster.max_failures)) from error
            assert result.return_value is not None
            return result.return_value
    raise AssertionError("the last failure is raised")


@contextlib.contextmanager
def _interrupt_by_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt for Ctrl-C during a fit, as in a run without Ray.

    Ray Train installs a handler of SIGINT that ends the workers and raises SystemExit, and leaves
    it installed after the fit.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, previous)


def _trainer(
    config: RunConfig, storage: RunStorage, parameters: dict[str, Any], cpus: float, name: str
) -> TorchTrainer:
    cluster = config.cluster
    return TorchTrainer(
        _work,
        train_loop_config=parameters,
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.folder / "train"),
            failure_config=ray.train.FailureConfig(
                max_failures=cluster.max_failures,
                controller_failure_limit=max(1, cluster.max_failures),
            ),
        ),
    )


def _work(parameters: dict[str, Any]) -> dict[str, Any]:
    """Runs one Train worker.

    Errors that a second try cannot remove are returned as values, because Train would retry the
    worker.
    """
    config = validate(parameters["config"])
    benchmark: Benchmark = ray.get(parameters["benchmark"][0])
    storage = RunStorage(Path(parameters["folder"]))
    height, width = config.backbone.image_height, config.backbone.image_width
    shared: SharedFiles | None = parameters["shared"]
    decoder = shared.decoder() if shared else None
    stream = RayStream(config.run_name, benchmark, config.data, height, width, decoder)
    world_size = ray.train.get_context().get_world_size()
    group = DistributedGroup() if world_size > 1 else LocalGroup()
    device = get_device() if config.cluster.use_gpu else torch.device("cpu")
    assert isinstance(device, torch.device)
    try:
        return run_worker(
            config,
            benchmark,
            storage,
            parameters["attempt"],
            stream,
            RayPrototypeStore(config.run_name),
            group,
            device,
            FileRequest(storage.stop_file) if group.rank == 0 else None,
        )
    except (ValueError, FloatingPointError) as error:
        return {"error": str(error), "kind": type(error).__name__}
    except DiskFullError as error:
        return {"error": error.strerror, "errno": error.errno}
    finally:
        stream.close()
