"""Reading and checking of weights files."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.backbones.torchscript import ForeignObjectError, is_torchscript, read_torchscript

_FILE_NAME = re.compile(r"\.(safetensors|pt|pth|bin|ckpt|tar)(?![a-z])", re.IGNORECASE)
"""Part of the name of a weights file, such as model.pth.tar-60."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes by DistributedDataParallel, torch.compile and Lightning."""
_IGNORED_OBJECTS = (
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *("datetime.datetime", "datetime.date", "datetime.timedelta"),
)  # fmt: skip
"""Harmless objects beside the tensors of training checkpoints. They are read as `_Ignored`."""
_FIRST_BYTES = 512
_REMEDY = "save the tensors of a model with torch.save(model.state_dict(), file)"


def is_weights_file(weights: str) -> bool:
    """Return whether `backbone.weights` is a file path rather than a tag."""
    return bool(_FILE_NAME.search(weights)) or len(Path(weights).parts) > 1


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

    No code of the file is executed. `state_dict` and `model` of a training checkpoint are
    unwrapped, and prefixes that all names share (module., _orig_mod., model.) are removed.

    Raises:
        ValueError: the file has none of these formats, or holds something else than tensors.
    """
    if problem := _other_content(path):
        raise ValueError(
            f"backbone.weights: cannot read {path} as a weights file: expected safetensors or "
            f"PyTorch's format, got {problem}"
        )
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
        else:
            ignored = torch.serialization.safe_globals(
                [(_Ignored, each) for each in _IGNORED_OBJECTS]
            )
            with ignored, warnings.catch_warnings(action="ignore"):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"backbone.weights: cannot read {path} as a weights file: {_reason(error)}"
        ) from error
    return _without_prefixes(_tensors_in(content, path))


class _Ignored:
    """Placeholder for an object that is not a tensor; it ignores its arguments."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _other_content(path: Path) -> str | None:
    """Describe a file that is no weights file by its first bytes; None if it may be one."""
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
    if not start:
        return "an empty file; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file; fetch the file with: git lfs pull"
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", start, re.IGNORECASE):
        return "a web page, such as a login or quota page; download the file with a browser"
    # A safetensors file starts with the length of its header, 8 bytes of which the last are zero.
    is_pickle = start.startswith(b"\x80") and any(start[2:8])
    if path.suffix.lower() == ".safetensors" and (is_pickle or start.startswith(b"PK\x03\x04")):
        return "PyTorch's format under the name .safetensors; rename the file to .pth"
    return None


def _reason(error: Exception) -> str:
    """Explain an error in one sentence, without PyTorch's advice to disable its safety checks."""
    text = str(error)
    if named := re.search(r"(?:GLOBAL|global) ([\w.]+\.\w+)", text):
        return (
            f"it holds the Python object {named[1]}, which may execute code and is not created; "
            f"expected tensors only: {_REMEDY}"
        )
    if isinstance(error, ForeignObjectError):
        return text
    if isinstance(error, pickle.UnpicklingError) and "load key" not in text:
        return f"it does not hold tensors by name; {_REMEDY}"
    first = (text.strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:150]
    return f"it is damaged or incomplete ({first}); download it again"


def _tensors_in(content: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors by name in the content of a file.

    Raises:
        ValueError: the content is not a mapping of names to tensors.
    """
    values: Any = content
    while isinstance(values, Mapping):
        inner = [values[name] for name in _WRAPPERS if isinstance(values.get(name), Mapping)]
        if not inner:
            break
        values = inner[0]
    problem = None
    if not isinstance(values, Mapping):
        problem = f"a {type(values).__name__}"
    elif not values:
        problem = "no tensors"
    elif strange := [key for key in values if not isinstance(key, str)]:
        problem = f"the key {strange[0]!r}"
    elif strange := [key for key in values if not isinstance(values[key], Tensor)]:
        problem = f"a {type(values[strange[0]]).__name__} under {strange[0]!r}"
    if problem:
        raise ValueError(
            f"backbone.weights: expected tensors by name in {path}, got {problem}; {_REMEDY}"
        )
    return dict(values)


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share."""
    while shared := [each for each in _PREFIXES if all(key.startswith(each) for key in state)]:
        state = {key.removeprefix(shared[0]): tensor for key, tensor in state.items()}
    return dict(state)


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
