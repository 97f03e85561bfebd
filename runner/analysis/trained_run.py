"""A finished run put to use: its learner as it was after a domain, ready to embed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.learner import Learner, LearnerState
from runner.config.run_config import RunConfig, load_config
from runner.results.run_folder import RunStorage, find_run
from runner.streaming.image_stream import LocalStream
from runner.training.checkpoints import chosen_name
from runner.training.collectives import LocalGroup
from runner.training.evaluation import Embedder
from runner.training.model_selection import Which
from runner.training.worker import build_learner
from tasks.schema import Benchmark


@dataclass(frozen=True)
class TrainedRun:
    """What a run learned.

    Attributes:
        storage: the run's folder.
        config: the run's configuration.
        checkpoint: name of the file that the learner was read from.
        learner: on `device`, in evaluation mode.
        device: where it computes.
    """

    storage: RunStorage
    config: RunConfig
    checkpoint: str
    learner: Learner
    device: torch.device

    @property
    def lock(self) -> dict[str, Any]:
        """The protocol lock that the run was trained under."""
        return json.loads(self.storage.lock_file.read_text())

    def facts(self) -> dict[str, Any]:
        """What tells two trained models apart, as plain values."""
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
    """Rebuilds the learner of a run from a checkpoint.

    Args:
        run: its folder, or its name under `storage_root`.
        storage_root: folder of runs.
        after: name of the seen domain after which the learner is taken; default: the last.
        checkpoint: the learner at the end, or after the epoch that validation people chose.
        use_gpu: compute on the first CUDA device.

    Raises:
        FileNotFoundError, ValueError: no such run, or it has no such checkpoint.
    """
    storage = RunStorage(find_run(run, storage_root))
    config = load_config(str(storage.config_file))
    file = _checkpoint_file(storage, after) if checkpoint == "last" else _chosen(storage, after)
    learner = build_learner(config, LocalGroup())
    with safe_open(file, framework="pt") as opened:
        facts = json.loads((opened.metadata() or {})["facts"])
    learner.load_state(LearnerState(load_file(file), facts))
    device = torch.device("cuda" if use_gpu else "cpu")
    return TrainedRun(storage, config, file.name, learner.to(device).eval(), device)


def _checkpoint_file(storage: RunStorage, after: str | None) -> Path:
    kept = sorted(storage.checkpoints.glob("after-*.safetensors"))
    if not storage.results_file.exists() and after is None:
        raise ValueError(
            f"{storage.folder} holds a run that is not finished; finish it (the command that began "
            "it goes on), or choose a domain that it has learned with --after DOMAIN"
        )
    learned = {file.stem.split("-", 2)[2]: file for file in kept}
    if not learned:
        raise FileNotFoundError(
            f"{storage.checkpoints} keeps no learner; a run keeps one after each domain unless "
            "checkpoints.keep_domains=false"
        )
    if after is None:
        return kept[-1]
    if after not in learned:
        raise ValueError(f"--after: expected one of {', '.join(learned)}; got {after!r}")
    return learned[after]


def _chosen(storage: RunStorage, after: str | None) -> Path:
    """The file of the epoch that `selection` in results.json says validation people chose."""
    results = storage.results()
    if after is not None or results is None:
        raise ValueError(
            "--checkpoint validation: one epoch of a whole run is chosen, when the run is "
            f"finished; leave out --after, and finish {storage.folder}"
        )
    chosen = (results.get("selection") or {}).get("validation")
    if chosen is None:
        raise ValueError(
            f"--checkpoint validation: {storage.folder} chose no epoch; only a run with "
            "evaluation.every_epochs of 1 or more does. Leave it out for the last one"
        )
    file = storage.checkpoints / f"{chosen_name(chosen['epoch'])}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{storage.checkpoints} has no {file.name}, the learner that results.json says was "
            "chosen; run again with --fresh, or leave out --checkpoint validation"
        )
    return file


@contextmanager
def embedding(run: TrainedRun, benchmark: Benchmark, quarantine: Path) -> Iterator[Embedder]:
    """An embedder over files of `benchmark`, or over any others, in this process.

    Args:
        run: what embeds; its configuration says how images are decoded.
        benchmark: names the domains of unreadable images; may have none.
        quarantine: where unreadable images are listed.
    """
    backbone, data, precision = run.config.backbone, run.config.data, run.config.precision
    stream = LocalStream(benchmark, data, backbone.image_height, backbone.image_width, quarantine)
    try:
        yield Embedder(run.learner, stream, LocalGroup(), run.device, data, precision)
    finally:
        stream.close()
