"""Checkpoints: where a run stands, written so that a kill at any moment loses at most one epoch.

A checkpoint is a folder of plain files: tensors.safetensors (the learner), optimizer.pt (tensors
only, read with weights_only), state.json (position, result matrices, facts). It is written under a
temporary name and renamed, so a folder named `position-*` is always whole. Randomness needs no
state: every draw derives from the run's seed and the position.
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
    """A newer start of the same run owns the storage; this process must write nothing more."""


@dataclass(frozen=True, order=True)
class Position:
    """The next thing to do: epoch `epoch` of stage `stage` of domain `domain` (all 0-based).

    `epoch` equal to the stage's length means that the stage's end is to be done; `domain` equal to
    the number of domains means that the run is finished.
    """

    domain: int = 0
    stage: int = 0
    epoch: int = 0


@dataclass
class Checkpoint:
    """All that a resumed run needs.

    Attributes:
        position: the next thing to do.
        tensors: the learner's tensors by path.
        facts: the learner's JSON-able facts.
        optimizer: the optimiser's state dict inside a stage, else None.
        progress: JSON-able state of the loop (matrices, counters, timings).
    """

    position: Position
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    optimizer: dict[str, Any] | None = None
    progress: dict[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The `checkpoints/` folder of one run.

    Args:
        folder: where checkpoints live.
        config_hash: hash of the result-relevant configuration; a checkpoint of another is refused.
        attempt_file: JSON file {"attempt": n} that names the start that owns the run, or None.
        attempt: the start this process belongs to.
        keep: how many of the newest checkpoints stay.
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
        """Writes one checkpoint atomically; drops the oldest beyond `keep` and unfinished ones.

        Raises:
            FencedError: a newer start of the run has taken over.
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
            "progress": checkpoint.progress,
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
        """Keeps the learner as it was after a domain, for evaluation and weight interpolation.

        One safetensors file; the learner's facts stand in its metadata under "facts", as JSON.
        """
        return self._save_state(f"after-{index + 1:02d}-{domain}", tensors, facts)

    def save_chosen(self, epoch: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Keeps the learner as it is after the epoch that is chosen so far, like `save_domain`."""
        return self._save_state(chosen_name(epoch), tensors, facts)

    def drop_chosen(self, *, but: int | None) -> None:
        """Drops the learners of epochs that are no longer chosen.

        Only after a checkpoint that knows the new choice: one that goes on from an older checkpoint
        still finds the old one.
        """
        for file in self.folder.glob("chosen-*.safetensors"):
            if but is None or file.stem != chosen_name(but):
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
        """The newest whole checkpoint, or None.

        Raises:
            ValueError: it was written under another configuration.
        """
        folders = self._folders()
        return self._load(folders[-1]) if folders else None

    def _load(self, folder: Path) -> Checkpoint:
        state = json.loads((folder / "state.json").read_text())
        if state["config_hash"] != self.config_hash:
            raise ValueError(
                f"{folder} was written under another configuration "
                f"(hash {state['config_hash']}, this run has {self.config_hash}); "
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
            progress=state["progress"],
        )

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("position-*")) if self.folder.is_dir() else []

    def _check_owner(self) -> None:
        if self.attempt_file is None:
            return
        owner = json.loads(self.attempt_file.read_text())["attempt"]
        if owner != self.attempt:
            raise FencedError(
                f"start {owner} of this run has taken over; start {self.attempt} stops here"
            )


def chosen_name(epoch: int) -> str:
    """The file, without its ending, of the learner after an epoch that was chosen."""
    return f"chosen-epoch-{epoch:04d}"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors wants dense tensors that share no storage."""
    return {path: tensor.detach().cpu().contiguous().clone() for path, tensor in tensors.items()}


def _sync(folder: Path) -> None:
    """Forces the files to disk before the rename makes them count."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
