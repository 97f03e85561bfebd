"""Reads the tensors of a TorchScript archive, such as OpenAI's CLIP, without executing its code."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
_MAX_TEXT_BYTES = 64_000_000
"""Largest pickle or source file that is read; those of OpenAI's largest CLIP have about 1 MB."""
_DECLARATION = r"__{kind}__ = \[(.*?)\]"


class ForeignObjectError(ValueError):
    """An archive holds an object that only code of the archive can create."""


def is_torchscript(path: Path) -> bool:
    """Return whether the file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read parameters and buffers, as `torch.jit.load(path).state_dict()` returns them.

    torch.jit.load executes code of the archive (`__setstate__`), which may write files. Here a
    restricted unpickler creates tensors and containers only, and the archive's source is only
    searched for the names of parameters and buffers.

    Raises:
        ForeignObjectError: the archive contains other objects.
        ValueError, KeyError, RuntimeError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if Path(name).name == "constants.pkl")
        reader = _ArchiveReader(archive, root.removesuffix("constants.pkl"))
        return dict(reader.state())


class _ScriptObject:
    """Attributes of an object of the archive; its methods are not read."""

    name = ""
    attributes: Mapping[str, Any]

    def __init__(self) -> None:
        self.attributes = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ForeignObjectError(
                f"its {self.name} restores itself by code, which is not executed. If you trust its "
                'source, convert it: python -c "import sys, torch; torch.save(torch.jit.load('
                "sys.argv[1], map_location='cpu').state_dict(), sys.argv[2])\" ARCHIVE weights.pth"
            )
        self.attributes = cast(dict[str, Any], state)


class _ArchiveReader:
    """Reader of one archive; `root` is the folder of its entries, with a slash at the end."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive = archive
        self._root = root
        self._storages: dict[str, Tensor] = {}

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors of the module and its submodules."""
        module = _RestrictedUnpickler(self._text("data.pkl"), self._storage).load()
        if not isinstance(module, _ScriptObject):
            raise ValueError(f"it holds a {type(module).__name__} instead of a module")
        yield from self._tensors(module, "", [])

    def _tensors(
        self, module: _ScriptObject, prefix: str, parents: Sequence[_ScriptObject]
    ) -> Iterator[tuple[str, Tensor]]:
        if any(module is parent for parent in parents):
            raise ValueError(f"its {module.name} contains itself")
        declared = self._declared(module.name)
        for key, value in module.attributes.items():
            if isinstance(value, Tensor) and (declared is None or key in declared):
                yield f"{prefix}{key}", value
            elif isinstance(value, _ScriptObject):
                yield from self._tensors(value, f"{prefix}{key}.", [*parents, module])

    def _declared(self, name: str) -> set[str] | None:
        """Names of the parameters and buffers of a class; None if its source declares neither."""
        package, _, leaf = name.rpartition(".")
        try:
            source = self._text(f"code/{package.replace('.', '/')}.py").decode()
        except KeyError:
            return None
        body = re.split(r"^class ", source.partition(f"class {leaf}(")[2], flags=re.MULTILINE)[0]
        patterns = (_DECLARATION.format(kind=kind) for kind in ("parameters", "buffers"))
        lists = [match[1] for each in patterns if (match := re.search(each, body, re.DOTALL))]
        if not lists:
            return None
        return {name for each in lists for name in re.findall(r'"(.*?)"', each)}

    def _storage(self, storage_id: object) -> Tensor:
        """One-dimensional tensor of a storage ("storage", dtype, key, location, number)."""
        match storage_id:
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as count):
                pass
            case _:
                raise ValueError(f"unknown storage {storage_id!r}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._root}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its tensor {key} is compressed")
            content = bytearray(self._archive.read(entry))
            self._storages[key] = torch.frombuffer(content, dtype=torch.uint8)
        size = count * dtype.itemsize
        if not 0 <= size <= len(self._storages[key]):
            raise ValueError(f"its tensor {key} is shorter than declared")
        return self._storages[key][:size].view(dtype)

    def _text(self, name: str) -> bytes:
        """Content of an entry that is not a tensor."""
        entry = self._archive.getinfo(self._root + name)
        if entry.file_size > _MAX_TEXT_BYTES:
            raise ValueError(f"its {name} has {entry.file_size:,} bytes")
        return self._archive.read(entry)


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that creates tensors, containers and `_ScriptObject`s, and calls nothing else."""

    def __init__(self, content: bytes, storage: Callable[[object], Tensor]) -> None:
        super().__init__(io.BytesIO(content))
        self._storage = storage

    def persistent_load(self, pid: object) -> Tensor:
        """Return the storage with this id."""
        return self._storage(pid)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return a replacement of a global; nothing is imported.

        Replacements are created anew for each global, so that a file cannot change those of
        another one.
        """
        if module_name.split(".")[0] == "__torch__":
            return type("ScriptObject", (_ScriptObject,), {"name": f"{module_name}.{global_name}"})
        match module_name, global_name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch", storage if storage in _DTYPES:
                return _DTYPES[storage]
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, *layout: _rebuild(storage, *layout[:3])
            case "torch.jit._pickle", name if name in _LISTS:
                return lambda values: values
            case "torch.jit._pickle", "restore_type_tag":
                return lambda value, _: value
            case _:
                raise ForeignObjectError(
                    f"it holds {module_name}.{global_name}, which is not created; expected "
                    "tensors and containers only"
                )


def _rebuild(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Create the tensor; torch raises RuntimeError if it exceeds the storage."""
    return storage.as_strided(tuple(size), tuple(stride), offset)
