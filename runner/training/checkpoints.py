"""Checkpoints of a run; a process killed at any time loses at most one epoch.

A checkpoint is a folder with tensors.safetensors (the learner), optimizer.pt (tensors only, loaded
with weights_only), state.json (position, run state, facts) and checksums.json. It is written under
a temporary name and then renamed, so a folder named `position-*` is complete unless the storage
damages it; a damaged one is detected and the one before it is loaded. Random generators need no
state, because all random numbers are derived from the seed of the run and the position; only a
checkpoint within an epoch stores them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.config.json_files import read_object
from runner.training.checkpoint_files import (
    Checkpoint,
    DamagedCheckpointError,
    Position,
    read_checkpoint,
    selected_epoch_of,
    write_checkpoint,
    write_learner,
)

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "DamagedCheckpointError",
    "FencedError",
    "Position",
    "selected_name",
]

_NAME = re.compile(r"position-(\d{3,})-(\d{2,})-(\d{4,})(?:-(\d{6,}))?")


class FencedError(RuntimeError):
    """A newer start of the same run owns the storage; this process must stop writing."""


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
        self.damaged: list[str] = []
        """Damaged checkpoints that the last call of `latest` skipped, with reasons."""

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint atomically, then deletes older, incomplete and later checkpoints.

        A run never goes back, except after a damaged checkpoint: checkpoints of later positions are
        damaged ones that were skipped.

        Raises:
            FencedError: a newer start of the run owns the storage.
            DiskFullError: the storage is full; existing checkpoints remain.
        """
        self._check_owner()
        target = self.folder / checkpoint.position.name
        for unfinished in self.folder.glob(".position-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(target, checkpoint, self.config_hash)
        positions = self._positions()
        kept = [position for position in positions if position <= checkpoint.position][-self.keep :]
        for position in positions:
            if position not in kept:
                _remove(self.folder / position.name)
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
        kept = {keep_epoch}
        positions = self._positions()
        if positions and positions[-1].stage + positions[-1].epoch > 0:
            # Within a domain, the run may fall back to the checkpoint before and its selection.
            kept |= {selected_epoch_of(self.folder / position.name) for position in positions}
        names = {selected_name(epoch) for epoch in kept if epoch is not None}
        for file in self.folder.glob("chosen-*.safetensors"):
            if file.stem not in names:
                file.unlink()

    def _save_state(self, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        self._check_owner()
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{name}.safetensors"
        write_learner(target, tensors, facts)
        return target

    def latest(self) -> Checkpoint | None:
        """Loads the most recent undamaged checkpoint; None if there is no checkpoint.

        Skipped checkpoints are listed in `damaged`.

        Raises:
            DamagedCheckpointError: all checkpoints are damaged.
            ValueError: the checkpoint was written with another configuration.
        """
        self.damaged = []
        for position in reversed(self._positions()):
            try:
                return read_checkpoint(self.folder / position.name, self.config_hash)
            except DamagedCheckpointError as error:
                self.damaged.append(str(error))
        if self.damaged:
            raise DamagedCheckpointError(
                f"{self.damaged[0]}, and {self.folder} has no undamaged checkpoint; restore it "
                "from a copy, or start over with --fresh"
            )
        return None

    def newest_position(self) -> Position:
        """Position of the most recent checkpoint, by its name; the first one if there is none."""
        return max(self._positions(), default=Position())

    def _positions(self) -> list[Position]:
        """Positions of all checkpoints, sorted; other names, such as copies, are ignored."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(
            Position(*(int(number or 0) for number in match.groups())) for match in matches if match
        )

    def _check_owner(self) -> None:
        if self.attempt_file is None:
            return
        remedy = "repeat the command, which repairs it"
        owner = read_object(self.attempt_file, keys=("attempt",), remedy=remedy)["attempt"]
        if owner != self.attempt:
            raise FencedError(
                f"start {owner} of this run has taken over its folder; this process (start "
                f"{self.attempt}) stops"
            )


def selected_name(epoch: int) -> str:
    """File name, without extension, of the learner after a selected epoch."""
    return f"chosen-epoch-{epoch:04d}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
