"""Collective operations between workers: a group of one process, and torch.distributed.

`gather` is differentiable. Each worker computes the loss of the *global* batch from the gathered
features. The gradient of a worker's local rows is therefore the sum over the identical losses of
all workers, and the mean that DDP takes over workers equals the gradient of a single worker.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerGroup(Protocol):
    """Interface to the workers of one run; it also serves as the learner's `Collective`."""

    rank: int
    world_size: int

    def gather(self, local: Tensor) -> Tensor:
        """[B, ...] -> [W*B, ...] in rank order, differentiable; all workers pass equal shapes."""
        ...

    def gather_rows(self, local: Tensor) -> Tensor:
        """Concatenates the rows of all workers in rank order; counts may differ; no gradient."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Returns the picklable value of rank 0 on every worker."""
        ...

    def barrier(self) -> None:
        """Waits for all workers."""
        ...


class LocalGroup:
    """Group of one process; every operation is the identity."""

    rank = 0
    world_size = 1

    def gather(self, local: Tensor) -> Tensor:
        """Returns the tensor unchanged."""
        return local

    def gather_rows(self, local: Tensor) -> Tensor:
        """Returns the detached tensor."""
        return local.detach()

    def broadcast(self, value: Any) -> Any:
        """Returns the value unchanged."""
        return value

    def barrier(self) -> None:
        """Does nothing."""


class DistributedGroup:
    """The default process group of torch.distributed (gloo on CPU, nccl on GPU)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def gather(self, local: Tensor) -> Tensor:
        """Gathers rows in rank order; the gradient of the local rows is summed over ranks."""
        return _Gather.apply(local)  # pyright: ignore[reportReturnType]

    def gather_rows(self, local: Tensor) -> Tensor:
        """Pads all shares to the same length, gathers them, and removes the padding."""
        local = local.detach()
        counts = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in self._ranks()]
        dist.all_gather(counts, torch.tensor([len(local)], device=local.device))
        sizes = [int(count) for count in counts]
        padded = local.new_zeros((max(sizes), *local.shape[1:]))
        padded[: len(local)] = local
        shares = [torch.empty_like(padded) for _ in self._ranks()]
        dist.all_gather(shares, padded)
        return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])

    def broadcast(self, value: Any) -> Any:
        """Broadcasts the pickled value of rank 0."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Waits for all ranks."""
        dist.barrier()

    def _ranks(self) -> range:
        return range(self.world_size)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, local: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        shares = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, local.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
