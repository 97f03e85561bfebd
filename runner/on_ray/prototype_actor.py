"""The memory store of a run on a Ray cluster: a named actor that keeps versions in shared memory.

The actor puts the tensors into the object store itself: what a worker puts dies with the worker.
torch is imported by the clients alone; the actor's process does without its half gigabyte.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from runner.training.prototype_store import StaleVersionError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedTensor:
    """A tensor as bytes, for dtypes that numpy does not have (bfloat16) like any other.

    Attributes:
        data: uint8 [bytes].
        dtype: name of the torch dtype, "float32" for example.
        shape: of the tensor.
    """

    data: np.ndarray
    dtype: str
    shape: tuple[int, ...]


class MemoryActor:
    """Owns the newest version of a run's tensors; only one call runs at a time."""

    def __init__(self) -> None:
        self._version = 0
        self._tensors = ray.put({})

    def publish(
        self, tensors: Mapping[str, PackedTensor], expected_version: int
    ) -> tuple[bool, int]:
        """Takes the tensors if the writer is up to date; whether it was, and the newest version."""
        if expected_version != self._version:
            return False, self._version
        self.reset(expected_version + 1, tensors)
        return True, self._version

    def latest(self) -> tuple[int, list[ray.ObjectRef]]:
        """The version and a reference to its tensors, in a list lest Ray resolves it."""
        return self._version, [self._tensors]

    def reset(self, version: int, tensors: Mapping[str, PackedTensor]) -> None:
        """Takes version and tensors as they are."""
        self._tensors = ray.put(dict(tensors))
        self._version = version


@contextlib.contextmanager
def serve_memory(run_name: str) -> Iterator[None]:
    """The run's memory actor lives, and with it every version, while this context is open.

    A restarted actor is empty: the next `publish` is refused, the worker fails, and Train begins
    again from the checkpoint, from which the memory is reset.

    Raises:
        ValueError: this driver has a memory of that name already.
    """
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1)(MemoryActor)
    actor = remote.options(name=_actor_name(run_name)).remote()
    try:
        ray.get(actor.latest.remote())
        yield
    finally:
        ray.kill(actor)


class RayMemory:
    """One process's access to the memory of a run; the driver is inside `serve_memory`."""

    def __init__(self, run_name: str) -> None:
        self._actor: Any = ray.get_actor(_actor_name(run_name))

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Sends the tensors to the actor, which answers whether it took them."""
        accepted, version = ray.get(self._actor.publish.remote(_pack(tensors), expected_version))
        if not accepted:
            raise StaleVersionError(expected_version, version)
        return version

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """Asks the actor for the reference and copies the tensors out of shared memory."""
        version, (reference,) = ray.get(self._actor.latest.remote())
        return version, _unpack(ray.get(reference))

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Sends the tensors to the actor."""
        ray.get(self._actor.reset.remote(version, _pack(tensors)))


def _pack(tensors: Mapping[str, Tensor]) -> dict[str, PackedTensor]:
    import torch

    packed: dict[str, PackedTensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        dtype = str(tensor.dtype).removeprefix("torch.")
        packed[name] = PackedTensor(flat.view(torch.uint8).numpy(), dtype, tuple(tensor.shape))
    return packed


def _unpack(packed: Mapping[str, PackedTensor]) -> dict[str, Tensor]:
    import torch

    tensors: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        # A copy: shared memory is read-only, and the object may go while the tensor is in use.
        tensors[name] = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
        tensors[name].reshape(-1).view(torch.uint8).numpy()[:] = tensor.data
    return tensors


def _actor_name(run_name: str) -> str:
    return f"memory-{run_name}"
