"""What workers say to one another: a group of one, and a group over torch.distributed.

`gather` lets gradients through. Each worker computes the loss of the *global* batch from gathered
features, so the gradient a worker receives for its own rows is the sum over the workers' identical
losses; DDP's mean over workers then yields exactly the gradient one worker would compute.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerGroup(Protocol):
    """The workers of one run, as the loop sees them; it is also the learner's `Collective`."""

    rank: int
    world_size: int

    def gather(self, local: Tensor) -> Tensor:
        """[B, ...] -> [W*B, ...] in rank order, differentiable; every worker sends equal shapes."""
        ...

    def gather_rows(self, local: Tensor) -> Tensor:
        """Concatenates rows of differing numbers, in rank order, without gradient."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value, on every worker."""
        ...

    def barrier(self) -> None:
        """Waits until every worker is here."""
        ...


class LocalGroup:
    """One process: everything is the identity."""

    rank = 0
    world_size = 1

    def gather(self, local: Tensor) -> Tensor:
        """The tensor itself."""
        return local

    def gather_rows(self, local: Tensor) -> Tensor:
        """The tensor itself, detached."""
        return local.detach()

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value

    def barrier(self) -> None:
        """Nothing to wait for."""


class DistributedGroup:
    """The default process group of torch.distributed (gloo on CPU, nccl on GPU)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def gather(self, local: Tensor) -> Tensor:
        """All workers' rows in rank order; the gradient of the local rows is summed over ranks."""
        return _Gather.apply(local)  # pyright: ignore[reportReturnType]

    def gather_rows(self, local: Tensor) -> Tensor:
        """Pads to the longest share, gathers, and cuts the padding away."""
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
        """Rank 0's value, pickled."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Waits until every rank is here."""
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
