"""Reading and checking of weights files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_FILE_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin"}


def is_weights_file(weights: str) -> bool:
    """Return whether `backbone.weights` is a file path rather than a tag."""
    path = Path(weights)
    return path.suffix in _FILE_SUFFIXES or len(path.parts) > 1


def check_weights_file(path: Path) -> None:
    """Check that a weights file exists.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"backbone.weights: expected an existing file, got {path.absolute()}"
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file, a state dict or a TorchScript archive.

    Raises:
        ValueError: the file has none of these formats.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"backbone.weights: cannot read {path} as a weights file: {error}"
        ) from error
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def is_torchscript(path: Path) -> bool:
    """Return whether the file is a TorchScript archive, like OpenAI's CLIP weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def load_strict(module: nn.Module, state: Mapping[str, Tensor], description: str) -> None:
    """Load a state dict whose paths and shapes must match the module exactly.

    Args:
        module: module to load into.
        state: tensors by path.
        description: file and architecture for the error message.

    Raises:
        ValueError: tensors are missing, unexpected or have another shape; names one of each kind.
    """
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "with another shape": sorted(
            key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape
        ),
    }
    counts = [f"{len(keys)} {kind} ({keys[0]}, ...)" for kind, keys in problems.items() if keys]
    if counts:
        raise ValueError(
            f"cannot load {description}: of {len(expected)} tensors {'; '.join(counts)}. Set "
            "backbone.name to the architecture that the file was trained with"
        )
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_warm_file(path: Path, command: str) -> None:
    """Check that weights included in the package match the metadata file next to them.

    Args:
        path: weights file; the metadata file has the suffix .json.
        command: command that creates both files.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: the hash of the weights differs.
    """
    metadata = path.with_suffix(".json")
    for file in (path, metadata):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; create it with: {command}")
    expected, actual = json.loads(metadata.read_text())["sha256"], file_sha256(path)
    if actual != expected:
        raise ValueError(
            f"{path}: expected sha256 {expected[:12]}..., got {actual[:12]}...; restore the file "
            f"or create it with: {command}"
        )
