"""Entry point of one worker: builds the learner and runs the training loop."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from models.backbones.building import build_backbone
from models.backbones.tower import PatchTower
from models.learner import Learner
from runner.config.run_config import RunConfig, learner_module
from runner.results.run_folder import RunStorage
from runner.streaming.decoded_cache import SharedFiles
from runner.streaming.image_decoding import decode_many
from runner.streaming.image_stream import DomainStream, LocalStream
from runner.tracking.event_log import EventLog
from runner.training.checkpoints import CheckpointStore
from runner.training.collectives import LocalGroup, WorkerGroup
from runner.training.device import compute_device, device_name
from runner.training.loop import LifelongLoop, WorkerContext
from runner.training.precision import cuda_algorithms, float32_products
from runner.training.prototype_store import LocalPrototypeStore, PrototypeStore
from runner.training.termination import StopRequest, stop_at_next_checkpoint
from tasks.loading.sampling import derive_seed
from tasks.schema import Benchmark


def build_learner(config: RunConfig, group: WorkerGroup) -> Learner:
    """Builds the configured learner and backbone; the weights depend only on the seed."""
    seed = derive_seed(config.seed, "learner")
    torch.manual_seed(seed)
    backbone = build_backbone(config.backbone, seed, group if group.world_size > 1 else None)
    if isinstance(backbone.image, PatchTower):
        backbone.image.num_parts = config.training.gradient_accumulation
    if config.training.compile:
        for block in backbone.image.blocks():
            block.compile()
    return learner_module(config.learner.name).Method(config.learner, backbone, group)


def run_worker(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    stream: DomainStream,
    prototypes: PrototypeStore,
    group: WorkerGroup,
    device: torch.device,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Trains on all domains.

    `stop` is the request to end the run after a checkpoint, None on workers that are not asked.

    Returns:
        The final run state and the size of the learner, as JSON values.
    """
    torch.set_num_threads(config.cluster.threads_per_worker)
    learner = build_learner(config, group)
    checkpoints = CheckpointStore(
        storage.checkpoints,
        config.hash,
        attempt_file=storage.attempt_file,
        attempt=attempt,
        keep=config.checkpoints.keep,
    )
    events = EventLog(storage.events_file) if group.rank == 0 else None
    context = WorkerContext(
        stream, prototypes, group, checkpoints, events, device, stop or StopRequest()
    )
    with cuda_algorithms(config.cluster, device), float32_products(config.precision, device):
        state = LifelongLoop(config, benchmark, learner, context).run()
    return {
        **state.to_json(),
        "device": device_name(device),
        "stored_bytes_per_domain": learner.stored_bytes_per_domain(),
        "num_parameters": sum(parameter.numel() for parameter in learner.parameters()),
        "num_trainable_parameters": num_trainable_parameters(learner),
    }


def num_trainable_parameters(learner: Learner) -> int:
    """Counts the current parameters that at least one stage of a domain trains."""
    patterns = [pattern for stage in learner.stages() for pattern in stage.trainable]
    return sum(
        parameter.numel()
        for path, parameter in learner.named_parameters()
        if any(fnmatchcase(path, pattern) for pattern in patterns)
    )


def run_in_process(
    config: RunConfig,
    benchmark: Benchmark,
    storage: RunStorage,
    attempt: int,
    shared: SharedFiles | None = None,
) -> dict[str, Any]:
    """Runs in this process, without Ray and MLflow; the results are bit-equal to a run on Ray."""
    height, width = config.backbone.image_height, config.backbone.image_width
    unreadable_file = Path(storage.unreadable_file)
    decoder = shared.decoder() if shared else None
    stream = LocalStream(
        benchmark, config.data, height, width, unreadable_file, decode=decoder or decode_many
    )
    device = compute_device(config.cluster.use_gpu)
    threads = torch.get_num_threads()
    try:
        prototypes, group = LocalPrototypeStore(), LocalGroup()
        with stop_at_next_checkpoint() as stop:
            return run_worker(
                config, benchmark, storage, attempt, stream, prototypes, group, device, stop
            )
    finally:
        torch.set_num_threads(threads)
        stream.close()
