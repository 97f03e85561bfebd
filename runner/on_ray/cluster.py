"""Everything Ray: connecting, checking resources, and one long Train fit for the whole run.

One fit walks all domains. A fit per domain would pay 15 s of process starts each time; here a
domain step is a span of one fit with its own checkpoint, and a worker that dies costs at most the
epoch it was in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from runner.config.run_config import RunConfig, validate
from runner.on_ray.image_stream import RayStream, serve_stream
from runner.on_ray.prototype_actor import RayMemory, serve_memory
from runner.on_ray.resources import MIN_WORKER_CPUS, await_resources, patience, worker_bundles
from runner.results.run_folder import RunStorage
from runner.streaming.decoded_cache import SharedFiles
from runner.training.collectives import DistributedGroup, LocalGroup
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
    """Trains on `cluster.num_workers` Ray Train workers and returns what rank 0 found.

    Args:
        config: the run.
        benchmark: its domains; workers take them from the object store.
        storage: the run's folder, which every worker must be able to write.
        attempt: number of this start of the run.
        first_domain: the domain a resumed run goes on with, decoded first.
        shared: files that need not be decoded again.

    Raises:
        ValueError: the cluster cannot hold the workers, or what a worker refused.
        FloatingPointError: the loss became NaN or infinite.
        RuntimeError: workers died more often than cluster.max_failures.
    """
    height, width = config.backbone.image_height, config.backbone.image_width
    with connected(config):
        room = await_resources(worker_bundles(config), config.cluster.wait_s)
        cpus = worker_cpus(config, room)
        with (
            serve_memory(config.run_name),
            serve_stream(
                config.run_name,
                benchmark,
                config.data,
                height,
                width,
                storage.quarantine_file,
                first_domain,
                shared.decoder() if shared else None,
            ),
        ):
            outcome = _fit(config, benchmark, storage, attempt, cpus, shared)
    if "error" in outcome:
        kind = FloatingPointError if outcome["kind"] == "FloatingPointError" else ValueError
        raise kind(outcome["error"])
    return outcome


@contextlib.contextmanager
def connected(config: RunConfig) -> Iterator[None]:
    """Joins the configured cluster, or starts a local one and ends it afterwards.

    Inside a process that is connected already (a sweep's trial) this does nothing.

    Raises:
        ValueError: more workers than the local machine has CPUs for.
        ConnectionError: the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    quiet_ray()
    settings: dict[str, Any] = {}
    if address == "local":
        own = {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
        worker_cpus(config, own)
        settings = {
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": int(config.cluster.object_store_gb * 1e9),
            "include_dashboard": False,
        }
    try:
        _knock(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_environment()},
            **settings,
        )
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"cluster.address: no Ray cluster answers at {address!r} ({error}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself would wait two minutes before it says that nobody is there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def worker_cpus(config: RunConfig, resources: Mapping[str, float]) -> float:
    """Ray CPUs of one worker, so that all workers and one decoding task fit side by side.

    Raises:
        ValueError: they do not fit; says what would.
    """
    cluster, decode = config.cluster, config.data.decode_cpus
    available = resources.get("CPU", 0.0)
    fair = min(1.0, (available - decode) / cluster.num_workers)
    wanted = cluster.cpus_per_worker or fair
    fitting = int((available - decode) / (cluster.cpus_per_worker or MIN_WORKER_CPUS))
    if wanted < MIN_WORKER_CPUS or cluster.num_workers * wanted + decode > available:
        raise ValueError(
            f"cluster.num_workers: {cluster.num_workers} workers of "
            f"{cluster.cpus_per_worker or MIN_WORKER_CPUS:g} CPUs and data.decode_cpus={decode:g} "
            f"do not fit the {available:g} CPUs there are; at most {max(fitting, 0)} workers do"
        )
    if cluster.use_gpu and resources.get("GPU", 0.0) < cluster.num_workers:
        raise ValueError(
            f"cluster.use_gpu: {cluster.num_workers} workers need as many GPUs, the cluster has "
            f"{resources.get('GPU', 0.0):g}; lower cluster.num_workers, set cluster.use_gpu=false, "
            "or cluster.wait_s where an autoscaler adds machines"
        )
    return wanted


def quiet_ray() -> None:
    """Leaves the screen to the run's own progress; warnings still come through."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _worker_environment() -> dict[str, str]:
    # In a submitted job Ray itself puts the uploaded folder on every node's path.
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
    os.environ.update(patience(cluster.wait_s))
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "benchmark": [ray.put(benchmark)],
            "folder": str(storage.folder),
            "attempt": attempt,
            "shared": shared,
        },
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            # A name of its own for every start: resuming is the run's business, not Train's.
            name=f"start-{attempt}",
            storage_path=str(storage.folder / "train"),
            failure_config=ray.train.FailureConfig(
                max_failures=cluster.max_failures, controller_failure_limit=1
            ),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(
            f"the workers failed more than cluster.max_failures={cluster.max_failures} times; "
            f"the last failure: {error}. The same command goes on from the last checkpoint"
        ) from error
    assert result.return_value is not None
    return result.return_value


def _work(parameters: dict[str, Any]) -> dict[str, Any]:
    """What each Train worker runs; a refusal comes back as a value, lest Train tries again."""
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
            RayMemory(config.run_name),
            group,
            device,
        )
    except (ValueError, FloatingPointError) as error:
        return {"error": str(error), "kind": type(error).__name__}
    finally:
        stream.close()
