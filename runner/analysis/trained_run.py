"""Trained learner of a finished run, loaded from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.learner import Learner
from runner.config.run_config import RunConfig, learner_module, load_config
from runner.results.run_folder import RunStorage
from runner.results.run_lookup import find_run
from runner.streaming.image_stream import LocalStream
from runner.training.checkpoint_files import read_learner
from runner.training.checkpoints import selected_name
from runner.training.collectives import LocalGroup
from runner.training.device import compute_device
from runner.training.evaluation import Embedder
from runner.training.model_selection import Which
from runner.training.worker import build_learner
from tasks.schema import Benchmark

EXPORT_FILE = "export.json"
"""File that marks the folder of an exported model, see `runner.analysis.export`."""

UNTRAINED = "weights of the backbone"
"""Checkpoint name of a learner that trains nothing."""


@dataclass(frozen=True)
class TrainedRun:
    """Trained learner of a run.

    Attributes:
        storage: storage of the run.
        config: configuration of the run.
        checkpoint: name of the checkpoint file.
        learner: learner on `device`, in evaluation mode.
        device: device of the learner.
    """

    storage: RunStorage
    config: RunConfig
    checkpoint: str
    learner: Learner
    device: torch.device

    @property
    def lock(self) -> dict[str, Any]:
        """Protocol lock under which the run was trained."""
        return self.storage.lock()

    def facts(self) -> dict[str, Any]:
        """Values that identify the trained model, as JSON."""
        return {
            "run": self.storage.folder.name,
            "learner": self.config.learner.name,
            "config_hash": self.config.hash,
            "seed": self.config.seed,
            "checkpoint": self.checkpoint,
        }


def load_run(
    run: str,
    storage_root: str,
    *,
    after: str | None = None,
    checkpoint: Which = "last",
    use_gpu: bool = False,
) -> TrainedRun:
    """Loads the learner of a run from a checkpoint.

    Args:
        run: run folder, or the run's name under `storage_root`.
        storage_root: folder of runs.
        after: load the checkpoint after this seen domain; default: the last domain.
        checkpoint: the last checkpoint, or that of the epoch selected on validation identities.
        use_gpu: compute on the first CUDA device.

    Sets the number of torch threads of this process to `cluster.threads_per_worker` of the run.
    With torch's default of one thread per core, a busy machine is several times slower.

    Raises:
        FileNotFoundError, ValueError: the run or the checkpoint does not exist, or there is no GPU.
    """
    device = compute_device(use_gpu, "--gpu")
    storage = RunStorage(find_run(run, storage_root))
    if (storage.folder / EXPORT_FILE).exists():
        raise ValueError(
            f"{storage.folder}: expected a run, got an exported model, which only search, index "
            "and evaluate accept; give the run that it was exported from"
        )
    config = load_config(str(storage.config_file))
    torch.set_num_threads(config.cluster.threads_per_worker)
    if learner_module(config.learner.name).Method.course == "none":
        # Nothing is trained, so the run has no checkpoint.
        if after is not None or checkpoint != "last":
            raise ValueError(
                f"--after, --checkpoint: expected neither for {config.learner.name}, which trains "
                "nothing; omit them"
            )
        learner = build_learner(config, LocalGroup())
        return TrainedRun(storage, config, UNTRAINED, learner.to(device).eval(), device)
    file = _checkpoint_file(storage, after) if checkpoint == "last" else _chosen(storage, after)
    learner = build_learner(config, LocalGroup())
    learner.load_state(read_learner(file))
    return TrainedRun(storage, config, file.name, learner.to(device).eval(), device)


def _checkpoint_file(storage: RunStorage, after: str | None) -> Path:
    kept = sorted(storage.checkpoints.glob("after-*.safetensors"))
    if not storage.results_file.exists() and after is None:
        raise ValueError(
            f"{storage.folder}: expected a finished run, got one that is not finished; repeat the "
            "command that started it, or choose a learned domain with --after DOMAIN"
        )
    learned = {file.stem.split("-", 2)[2]: file for file in kept}
    if not learned:
        raise FileNotFoundError(
            f"{storage.checkpoints}: expected a checkpoint after each domain, got none; run with "
            "checkpoints.keep_domains=true"
        )
    if after is None:
        return kept[-1]
    if after not in learned:
        raise ValueError(f"--after: expected one of {', '.join(learned)}, got {after!r}")
    return learned[after]


def _chosen(storage: RunStorage, after: str | None) -> Path:
    """Checkpoint of the epoch that `selection` in results.json names."""
    results = storage.results()
    if after is not None or results is None:
        raise ValueError(
            "--checkpoint validation: expected a finished run and no --after, because the epoch is "
            f"chosen at the end of a run; leave out --after, and finish {storage.folder}"
        )
    chosen = (results.get("selection") or {}).get("validation")
    if chosen is None:
        raise ValueError(
            "--checkpoint validation: expected a selected epoch, got none in "
            f"{storage.folder}; run with evaluation.every_epochs of 1 or more, or omit the option"
        )
    file = storage.checkpoints / f"{selected_name(chosen['epoch'])}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{storage.checkpoints}: expected {file.name}, which results.json names as the chosen "
            "checkpoint, got no file; run again with --fresh, or omit --checkpoint validation"
        )
    return file


@contextmanager
def embedding(run: TrainedRun, benchmark: Benchmark, unreadable_file: Path) -> Iterator[Embedder]:
    """Context manager for an embedder of image files in this process.

    Args:
        run: trained run; its configuration determines how images are decoded.
        benchmark: names the domains of unreadable images; may be empty.
        unreadable_file: file that lists unreadable images.
    """
    backbone, data, precision = run.config.backbone, run.config.data, run.config.precision
    stream = LocalStream(
        benchmark, data, backbone.image_height, backbone.image_width, unreadable_file
    )
    try:
        yield Embedder(run.learner, stream, LocalGroup(), run.device, data, precision)
    finally:
        stream.close()
