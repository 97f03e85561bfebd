"""Atomic checkpoints of a run; a process killed at any time loses at most one epoch.

A checkpoint is a folder with tensors.safetensors (the learner), optimizer.pt (tensors only, loaded
with weights_only) and state.json (position, run state, facts). It is written under a temporary
name and then renamed, so a folder named `position-*` is always complete. Random generators need no
state, because all random numbers are derived from the seed of the run and the position.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class FencedError(RuntimeError):
    """A newer start of the same run owns the storage; this process must stop writing."""


@dataclass(frozen=True, order=True)
class Position:
    """The next epoch to train: domain, stage and epoch, counted from 0.

    If `epoch` equals the number of epochs, the end of the stage is next. If `domain` equals the
    number of domains, the run is finished.
    """

    domain: int = 0
    stage: int = 0
    epoch: int = 0


@dataclass
class Checkpoint:
    """Everything needed to resume a run.

    Attributes:
        position: the next epoch to train.
        tensors: tensors of the learner by path.
        facts: JSON values of the learner.
        optimizer: state dict of the optimiser within a stage, otherwise None.
        run_state: JSON values of `RunState` (result matrices, counters, timings).
    """

    position: Position
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    optimizer: dict[str, Any] | None = None
    run_state: dict[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The `checkpoints/` folder of one run.

    Args:
        folder: folder of the checkpoints.
        config_hash: hash of the configuration that affects results. Checkpoints with another hash
            are rejected.
        attempt_file: JSON file {"attempt": n} with the number of the start that owns the run; None
            disables the ownership check.
        attempt: number of the start that this process belongs to.
        keep: number of most recent checkpoints to keep.
    """

    def __init__(
        self,
        folder: Path,
        config_hash: str,
        attempt_file: Path | None = None,
        attempt: int = 0,
        keep: int = 2,
    ) -> None:
        self.folder = folder
        self.config_hash = config_hash
        self.attempt_file = attempt_file
        self.attempt = attempt
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint atomically, then deletes older and incomplete checkpoints.

        Raises:
            FencedError: a newer start of the run owns the storage.
        """
        self._check_owner()
        position = checkpoint.position
        name = f"position-{position.domain:03d}-{position.stage:02d}-{position.epoch:04d}"
        target = self.folder / name
        temporary = self.folder / f".{name}.{os.getpid()}"
        for unfinished in self.folder.glob(".position-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_contiguous(checkpoint.tensors), temporary / "tensors.safetensors")
        if checkpoint.optimizer is not None:
            torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
        state = {
            "config_hash": self.config_hash,
            "position": asdict(position),
            "facts": checkpoint.facts,
            "progress": checkpoint.run_state,
        }
        (temporary / "state.json").write_text(json.dumps(state))
        _sync(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def save_domain(
        self, index: int, domain: str, tensors: dict[str, Tensor], facts: dict[str, Any]
    ) -> Path:
        """Saves the learner after a domain, for later evaluation and weight interpolation.

        The result is one safetensors file; its metadata holds the facts of the learner as JSON
        under the key "facts".
        """
        return self._save_state(f"after-{index + 1:02d}-{domain}", tensors, facts)

    def save_selected(self, epoch: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Saves the learner after the selected epoch, in the format of `save_domain`."""
        return self._save_state(selected_name(epoch), tensors, facts)

    def drop_selected(self, *, keep_epoch: int | None) -> None:
        """Deletes saved learners of epochs other than `keep_epoch`.

        Call this only after the checkpoint with the new selection is written. A run that resumes
        from an older checkpoint still needs the earlier selection.
        """
        for file in self.folder.glob("chosen-*.safetensors"):
            if keep_epoch is None or file.stem != selected_name(keep_epoch):
                file.unlink()

    def _save_state(self, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        self._check_owner()
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{name}.safetensors"
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        save_file(_contiguous(tensors), temporary, metadata={"facts": json.dumps(facts)})
        temporary.rename(target)
        return target

    def latest(self) -> Checkpoint | None:
        """Loads the most recent checkpoint; None if there is none.

        Raises:
            ValueError: it was written with another configuration.
        """
        folders = self._folders()
        return self._load(folders[-1]) if folders else None

    def _load(self, folder: Path) -> Checkpoint:
        state = json.loads((folder / "state.json").read_text())
        if state["config_hash"] != self.config_hash:
            raise ValueError(
                f"{folder}: expected a checkpoint of configuration {self.config_hash}, got one of "
                f"another configuration ({state['config_hash']}); "
                "choose another run.name, or start over with --fresh"
            )
        optimizer_file = folder / "optimizer.pt"
        return Checkpoint(
            position=Position(**state["position"]),
            tensors=load_file(folder / "tensors.safetensors"),
            facts=state["facts"],
            optimizer=torch.load(optimizer_file, weights_only=True, map_location="cpu")
            if optimizer_file.exists()
            else None,
            run_state=state["progress"],
        )

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("position-*")) if self.folder.is_dir() else []

    def _check_owner(self) -> None:
        if self.attempt_file is None:
            return
        owner = json.loads(self.attempt_file.read_text())["attempt"]
        if owner != self.attempt:
            raise FencedError(
                f"start {owner} of this run has taken over its folder; this process (start "
                f"{self.attempt}) stops"
            )


def selected_name(epoch: int) -> str:
    """File name, without extension, of the learner after a selected epoch."""
    return f"chosen-epoch-{epoch:04d}"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors, because safetensors requires dense tensors that share no storage."""
    return {path: tensor.detach().cpu().contiguous().clone() for path, tensor in tensors.items()}


def _sync(folder: Path) -> None:
    """Flushes the files to disk before the folder is renamed."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
