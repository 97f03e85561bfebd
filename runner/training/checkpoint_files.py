"""Files of one checkpoint folder: atomic writing, checksums, and reading with verification."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.learner import LearnerState
from runner.config.disk_space import explain_full_disk
from runner.config.json_files import DamagedFileError, flush_to_disk, read_object

CHECKSUMS = "checksums.json"
"""File with the SHA-256 of every other file of the folder; older checkpoints have none."""


class DamagedCheckpointError(ValueError):
    """A checkpoint folder is incomplete, or one of its files was truncated or replaced."""


@dataclass(frozen=True, order=True)
class Position:
    """The next epoch to train: domain, stage and epoch, counted from 0.

    If `epoch` equals the number of epochs, the end of the stage is next. If `domain` equals the
    number of domains, the run is finished. `iteration` is positive only in a checkpoint written
    within an epoch, after that number of its iterations.
    """

    domain: int = 0
    stage: int = 0
    epoch: int = 0
    iteration: int = 0

    @property
    def name(self) -> str:
        """Name of the checkpoint's folder."""
        within = f"-{self.iteration:06d}" if self.iteration else ""
        return f"position-{self.domain:03d}-{self.stage:02d}-{self.epoch:04d}{within}"

    def __str__(self) -> str:
        """Counts from 1, for messages."""
        within = f", iteration {self.iteration + 1}" if self.iteration else ""
        return f"domain {self.domain + 1}, stage {self.stage + 1}, epoch {self.epoch + 1}{within}"


@dataclass
class Checkpoint:
    """Everything needed to resume a run.

    Attributes:
        position: the next epoch to train.
        tensors: tensors of the learner by path.
        facts: JSON values of the learner.
        optimizer: state dict of the optimiser within a stage, otherwise None.
        run_state: JSON values of `RunState` (result matrices, counters, timings).
        selected_epoch: epoch selected on validation identities so far.
    """

    position: Position
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    optimizer: dict[str, Any] | None = None
    run_state: dict[str, Any] = field(default_factory=dict)
    selected_epoch: int | None = None


def write_checkpoint(folder: Path, checkpoint: Checkpoint, config_hash: str) -> None:
    """Writes a checkpoint under a temporary name, flushes it to disk and renames it.

    An existing checkpoint of this name is replaced. If writing fails, the temporary folder is
    removed and existing checkpoints are not changed.

    Raises:
        DiskFullError: the storage is full.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with explain_full_disk(folder, _num_bytes(checkpoint)):
            temporary.mkdir(parents=True)
            _write_files(temporary, checkpoint, config_hash)
            _flush(temporary)
            if folder.is_dir():
                shutil.rmtree(folder)
            else:
                folder.unlink(missing_ok=True)
            temporary.rename(folder)
            flush_to_disk(folder.parent)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_learner(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes a learner as one safetensors file, atomically; its facts are in the metadata."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        with explain_full_disk(file, _num_tensor_bytes(tensors)):
            save_file(_contiguous(tensors), temporary, metadata={"facts": json.dumps(facts)})
            flush_to_disk(temporary)
            temporary.rename(file)
            flush_to_disk(file.parent)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def read_learner(file: Path) -> LearnerState:
    """Reads a file of `write_learner`.

    Raises:
        DamagedFileError: the file is truncated or overwritten.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})["facts"])
        return LearnerState(load_file(file), facts)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedFileError(
            file, _reason(error), "restore it from a copy, or run again with --fresh"
        ) from error


def read_checkpoint(folder: Path, config_hash: str) -> Checkpoint:
    """Reads a checkpoint and verifies its checksums.

    Raises:
        DamagedCheckpointError: a file is missing, or its content is not as written.
        ValueError: the checkpoint was written with another configuration.
    """
    _verify(folder)
    try:
        state = read_object(
            folder / "state.json", keys=("config_hash", "position", "facts", "progress"), remedy=""
        )
        if state["config_hash"] == config_hash:
            return _read_files(folder, state)
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file of a checkpoint without checksums; the kind of error depends on the file.
        raise DamagedCheckpointError(f"{folder} is damaged ({_reason(error)})") from error
    raise ValueError(
        f"{folder}: expected a checkpoint of configuration {config_hash}, got one of "
        f"another configuration ({state['config_hash']}); "
        "choose another run.name, or start over with --fresh"
    )


def selected_epoch_of(folder: Path) -> int | None:
    """Reads the epoch selected at a checkpoint; None if there is none or it is damaged."""
    try:
        return read_object(folder / "state.json", remedy="").get("selected_epoch")
    except (OSError, DamagedFileError):
        return None


def _write_files(folder: Path, checkpoint: Checkpoint, config_hash: str) -> None:
    save_file(_contiguous(checkpoint.tensors), folder / "tensors.safetensors")
    if checkpoint.optimizer is not None:
        _write_pickle(folder / "optimizer.pt", checkpoint.optimizer)
    state = {
        "config_hash": config_hash,
        "position": asdict(checkpoint.position),
        "facts": checkpoint.facts,
        "progress": checkpoint.run_state,
        "selected_epoch": checkpoint.selected_epoch,
    }
    (folder / "state.json").write_text(json.dumps(state))
    checksums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1))


def _write_pickle(file: Path, value: object) -> None:
    # torch.save reports a full disk only as an "unexpected pos" of its zip archive.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with file.open("wb") as stream:
        stream.write(buffer.getbuffer())


def _read_files(folder: Path, state: Mapping[str, Any]) -> Checkpoint:
    optimizer_file = folder / "optimizer.pt"
    return Checkpoint(
        position=Position(**state["position"]),
        tensors=load_file(folder / "tensors.safetensors"),
        facts=state["facts"],
        optimizer=torch.load(optimizer_file, weights_only=True, map_location="cpu")
        if optimizer_file.exists()
        else None,
        run_state=state["progress"],
        selected_epoch=state.get("selected_epoch"),
    )


def _verify(folder: Path) -> None:
    if not folder.is_dir():
        raise DamagedCheckpointError(f"{folder} is damaged (expected a folder, got a file)")
    file = folder / CHECKSUMS
    if not file.exists() and (folder / "state.json").exists():
        return  # of an older version, or the checksums are lost
    try:
        checksums = read_object(file, remedy="")
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{folder} is damaged (files are missing)") from None
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"{folder} is damaged ({_reason(error)})") from error
    for name, checksum in checksums.items():
        if not (folder / name).is_file():
            raise DamagedCheckpointError(f"{folder} is damaged ({name} is missing)")
        if _checksum(folder / name) != checksum:
            raise DamagedCheckpointError(
                f"{folder} is damaged (the content of {name} differs from its checksum)"
            )


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Flushes the files and their directory to disk before the folder is renamed."""
    for path in folder.iterdir():
        flush_to_disk(path)
    flush_to_disk(folder)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors, because safetensors requires dense tensors that share no storage."""
    return {path: tensor.detach().cpu().contiguous().clone() for path, tensor in tensors.items()}


def _num_tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _num_bytes(checkpoint: Checkpoint) -> int:
    """Approximate size of a checkpoint on disk."""
    states = (checkpoint.optimizer or {}).get("state", {}).values()
    return _num_tensor_bytes(checkpoint.tensors) + sum(
        value.numel() * value.element_size()
        for state in states
        for value in state.values()
        if isinstance(value, Tensor)
    )


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].removesuffix("; ")
