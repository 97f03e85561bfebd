"""Weights files, whatever architecture they are of."""

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
    """Whether `backbone.weights` names a file rather than a tag."""
    path = Path(weights)
    return path.suffix in _FILE_SUFFIXES or len(path.parts) > 1


def check_weights_file(path: Path) -> None:
    """Refuses a file that is not there.

    Raises:
        FileNotFoundError: says where it was looked for.
    """
    if not path.is_file():
        raise FileNotFoundError(f"backbone.weights: no file at {path.absolute()}")


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name from safetensors, a state dict, or a TorchScript archive.

    Raises:
        ValueError: the file is none of these.
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
            f"backbone.weights: {path} is no readable weights file: {error}"
        ) from error
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def is_torchscript(path: Path) -> bool:
    """Whether the file is an archive of code and weights, as OpenAI's CLIPs are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads tensors that must be the module's own, neither more nor fewer.

    Args:
        module: what takes them.
        state: tensors by path.
        what: file and architecture, for the message.

    Raises:
        ValueError: says how many lack, are unknown or have another shape, and names one of each.
    """
    own = module.state_dict()
    problems = {
        "lacking": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            key for key in own.keys() & state.keys() if own[key].shape != state[key].shape
        ),
    }
    found = [f"{len(keys)} {kind} ({keys[0]}, ...)" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"cannot load {what}: of {len(own)} tensors {'; '.join(found)}. Set backbone.name to "
            "the architecture that the file was trained with"
        )
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_warm_file(path: Path, command: str) -> None:
    """Refuses weights of the package that are not those of the facts beside them.

    Args:
        path: the weights; the facts have the same name, with .json.
        command: what makes them anew.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: the weights have another hash.
    """
    facts = path.with_suffix(".json")
    for file in (path, facts):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; make it anew: {command}")
    expected, came = json.loads(facts.read_text())["sha256"], file_sha256(path)
    if came != expected:
        raise ValueError(
            f"{path}: expected sha256 {expected[:12]}..., came {came[:12]}...; restore the file or "
            f"make it anew: {command}"
        )
