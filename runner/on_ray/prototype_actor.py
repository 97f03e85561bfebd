"""Prototype store on a Ray cluster: a named actor that keeps the prototypes in shared memory.

The actor itself puts the tensors into the object store, because objects put by a worker are lost
when the worker dies. Only clients import torch; the actor process saves its half gigabyte.
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
    """A tensor as bytes; this supports dtypes that numpy lacks, such as bfloat16.

    Attributes:
        data: uint8 [number of bytes].
        dtype: name of the torch dtype, for example "float32".
        shape: shape of the tensor.
    """

    data: np.ndarray
    dtype: str
    shape: tuple[int, ...]


class PrototypeActor:
    """Owns the latest version of the prototypes; calls are processed one at a time."""

    def __init__(self) -> None:
        self._version = 0
        self._tensors = ray.put({})

    def publish(
        self, tensors: Mapping[str, PackedTensor], expected_version: int
    ) -> tuple[bool, int]:
        """Publishes the tensors if `expected_version` is the latest version.

        Returns:
            Whether the tensors were accepted, and the latest version.
        """
        if expected_version != self._version:
            return False, self._version
        self.reset(expected_version + 1, tensors)
        return True, self._version

    def latest(self) -> tuple[int, list[ray.ObjectRef]]:
        """Returns the version and a reference to its tensors.

        The reference is in a list, because Ray would resolve it otherwise.
        """
        return self._version, [self._tensors]

    def reset(self, version: int, tensors: Mapping[str, PackedTensor]) -> None:
        """Replaces version and tensors."""
        self._tensors = ray.put(dict(tensors))
        self._version = version


@contextlib.contextmanager
def serve_prototypes(run_name: str) -> Iterator[None]:
    """Runs the prototype actor while this context is open.

    A restarted actor is empty: it rejects the next `publish`, the worker fails, and Train restarts
    from the latest checkpoint, which also resets the store.

    Raises:
        ValueError: this driver already has a prototype store with this name.
    """
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1)(PrototypeActor)
    actor = remote.options(name=_actor_name(run_name)).remote()
    try:
        ray.get(actor.latest.remote())
        yield
    finally:
        ray.kill(actor)


class RayPrototypeStore:
    """Client of the prototype actor of a run; the driver must be inside `serve_prototypes`."""

    def __init__(self, run_name: str) -> None:
        self._actor: Any = ray.get_actor(_actor_name(run_name))

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Sends the tensors to the actor."""
        accepted, version = ray.get(self._actor.publish.remote(_pack(tensors), expected_version))
        if not accepted:
            raise StaleVersionError(expected_version, version)
        return version

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """Gets the reference from the actor and copies the tensors from shared memory."""
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
        # Copy: shared memory is read-only, and the object may be freed while the tensor is used.
        tensors[name] = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
        tensors[name].reshape(-1).view(torch.uint8).numpy()[:] = tensor.data
    return tensors


def _actor_name(run_name: str) -> str:
    return f"prototypes-{run_name}"
