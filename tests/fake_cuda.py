"""A CUDA device simulated on the CPU: finds tensors on the wrong device without a GPU.

Inside `fake_cuda()`, tensors can be moved to `DEVICE`. They report that device and compute on the
CPU, so results equal those of the CPU, data-dependent operations included (torch's FakeTensorMode
has no data and cannot run them). As on a GPU, these are errors: an operation on tensors of both
devices, a CPU generator for a CUDA tensor, and `numpy()` of a CUDA tensor. Operations that make
the CPU wait for a GPU are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)

aten = torch.ops.aten

COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXING = (
    *(aten.index.Tensor, aten._unsafe_index.Tensor),
    *(aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default),
)
STRICT = (aten.cat.default, aten.stack.default)
"""Operations that refuse even a CPU scalar among CUDA tensors."""

WAITING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
"""Operations whose result or shape the CPU waits for."""


class FakeCudaTensor(Tensor):
    """A tensor that reports `DEVICE`; its values are in `host`, a CPU tensor."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> FakeCudaTensor:
        meta = torch.empty_strided(host.size(), host.stride(), dtype=host.dtype, device="meta")
        made = torch.Tensor._make_subclass(
            cls, meta, False, dispatch_device=True, device_for_backend_keys=DEVICE
        )
        made.host = host.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    def __repr__(self, **_: Any) -> str:
        return f"FakeCudaTensor({self.host!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a cuda:0 tensor to numpy; copy it to the CPU first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    # torch's C++ code would place lists and numbers on the device that it sees, and lose them.
    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_placed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=self.dtype, device=DEVICE)
        super().__setitem__(_placed(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Reached outside of the mode: in other threads, like those that prepare batches.
        return _dispatch(func, args, kwargs or {})


class FakeCudaMode(TorchDispatchMode):
    """Runs every operation of this thread; `waits` names those that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func, args, kwargs):
            self.waits.append(str(func))
        return _dispatch(func, args, kwargs)


@contextmanager
def fake_cuda() -> Iterator[FakeCudaMode]:
    """Simulate a machine with one GPU, `DEVICE`."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    only_lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) copies by the mode
    cudnn = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False  # cuDNN's operations have no CPU kernels
    try:
        with (
            mock.patch("torch.cuda._lazy_init"),
            mock.patch("torch.cuda.is_available", return_value=True),
            mock.patch("torch.cuda.device_count", return_value=1),
            mock.patch("torch.cuda.manual_seed_all"),
            # Pinned memory needs a driver; other threads allocate it outside the mode.
            mock.patch("torch.empty", _unpinned_empty),
            mock.patch("torch.Tensor.pin_memory", lambda tensor: tensor),
            mock.patch("torch.cuda.is_current_stream_capturing", return_value=False),
            FakeCudaMode() as mode,
        ):
            yield mode
    finally:
        torch.backends.cudnn.enabled = cudnn
        torch._C._set_only_lift_cpu_tensors(only_lift)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


_empty = torch.empty


def _unpinned_empty(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
    del pin_memory
    return _empty(*size, **options)


def _tensors(values: Any) -> tuple[list[FakeCudaTensor], list[Tensor]]:
    """Fake CUDA tensors and CPU tensors among nested arguments."""
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    fakes = [leaf for leaf in leaves if isinstance(leaf, FakeCudaTensor)]
    return fakes, [leaf for leaf in leaves if not isinstance(leaf, FakeCudaTensor)]


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    fakes, others = _tensors((args, kwargs))
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    on_cuda = device.type != "cpu" if device is not None else bool(fakes)
    if func is torch.ops.prim.device.default:
        # torch's C++ code, which would otherwise ask the driver for a stream, sees a meta tensor.
        return torch.device("meta")
    if func is aten.is_pinned.default:
        return False
    if func is aten._pin_memory.default:
        return args[0].clone()
    if func is aten._fused_sdp_choice.default:
        return 0  # the mathematical form: fused kernels of CUDA have no CPU version
    assert not any(other.is_meta for other in others), f"{func}: the simulation lost a value"
    _check_devices(func, args, fakes, others)
    _check_generators(func, (args, kwargs), "cuda" if on_cuda else "cpu")
    if device is not None and on_cuda:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*tree_map(_host, args), **tree_map(_host, kwargs))
    if func is aten.copy_.default:
        return args[0]
    if not on_cuda:
        return result
    known = {id(fake.host): fake for fake in fakes}  # in-place operations return their argument

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else FakeCudaTensor(value)

    return tree_map(wrapped, result)


def _placed(index: Any) -> Any:
    """Copy lists and arrays of indices to `DEVICE`, as torch does for an index of a CUDA tensor."""
    if isinstance(index, tuple):
        return tuple(_placed(each) for each in index)
    return torch.tensor(index, device=DEVICE) if isinstance(index, list | np.ndarray) else index


def _host(value: Any) -> Any:
    return value.host if isinstance(value, FakeCudaTensor) else value


def _check_devices(func: Any, args: Any, fakes: list[Any], others: list[Tensor]) -> None:
    if not fakes or not others or func in COPIES:
        return
    if func in INDEXING:
        # A CPU index of a CUDA tensor is copied (and waited for); the reverse is an error.
        source, *values = (args[0], *args[2:3])
        misplaced = not isinstance(source, FakeCudaTensor) or any(
            isinstance(value, Tensor) and not isinstance(value, FakeCudaTensor) and value.ndim
            for value in values
        )
    else:
        misplaced = func in STRICT or any(other.ndim for other in others)
    if misplaced:
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, got cuda:0 and cpu"
        )


def _check_generators(func: Any, values: Any, device: str) -> None:
    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Generator) and leaf.device.type != device:
            raise RuntimeError(
                f"{func}: expected a '{device}' generator, got one of '{leaf.device.type}'"
            )


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    fakes, others = _tensors((args, kwargs))
    if not fakes:
        return False
    if func in INDEXING:
        indices = [index for index in args[1] if index is not None]
        return bool(others) or any(index.dtype == torch.bool for index in indices)
    to_cpu = func is aten._to_copy.default and str(kwargs.get("device", "cuda")) == "cpu"
    return func in WAITING or to_cpu or (func is aten.copy_.default and bool(others))
