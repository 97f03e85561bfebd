"""Prototypes: what is kept of a domain once it is over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.losses.similarity import at_least_float32


def identity_centres(features: Tensor, person_ids: Tensor, num_persons: int) -> Tensor:
    """L2-normalised mean feature of every identity.

    Args:
        features: [N, ..., D].
        person_ids: [N] long in 0..num_persons-1.
        num_persons: C.

    Returns:
        [C, ..., D] float32 or better; zeros for an identity without images.
    """
    features = at_least_float32(features.detach())
    sums = features.new_zeros(num_persons, *features.shape[1:])
    # The direction of the sum is that of the mean.
    return functional.normalize(sums.index_add_(0, person_ids, features), dim=-1)


class PrototypeMemory(nn.Module):
    """Prototypes p[d, k] of frozen domains, and those of the domain being learned.

    The memory is a table: row r holds the unit vector `vectors[r]` under the key `keys[r]` =
    (domain, attribute, identity or -1, component), made of `counts[r]` features. Component is 0
    for a mean; further centroids of one attribute would count up. Rows are appended by whole
    sets of K attributes, and frozen from then on. `current` [K, D] is the domain being learned.

    Everything is a buffer, so the table survives a checkpoint whatever its length. Features are
    those of the global batch: the memory itself knows nothing of workers.

    Args:
        num_attributes: K; 1 for one prototype of the global feature per domain.
        dim: feature size D.

    Source: VLADR, attribute prototype memory.
    """

    vectors: Tensor
    keys: Tensor
    counts: Tensor
    current: Tensor
    current_count: Tensor
    current_domain: Tensor

    def __init__(self, num_attributes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(0, dim))
        self.register_buffer("keys", torch.empty(0, 4, dtype=torch.long))
        self.register_buffer("counts", torch.empty(0, dtype=torch.long))
        self.register_buffer("current", torch.zeros(num_attributes, dim))
        self.register_buffer("current_count", torch.tensor(0))
        self.register_buffer("current_domain", torch.tensor(-1))

    @property
    def num_attributes(self) -> int:
        """K."""
        return self.current.shape[0]

    @property
    def num_domains(self) -> int:
        """Number of frozen domains T."""
        return len(self.keys[:, 0].unique())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frozen prototype vectors (keys and counters, 40 bytes a row, aside)."""
        return self.vectors.numel() * self.vectors.element_size()

    def begin_domain(self, index: int) -> None:
        """Starts the prototypes of domain `index` (>= 0, not frozen before) from nothing."""
        if index < 0 or bool((self.keys[:, 0] == index).any()):
            raise ValueError(f"domain {index} is negative or already frozen in the memory")
        self.current.zero_()
        self.current_count.zero_()
        self.current_domain.fill_(index)

    @torch.no_grad()
    def update(self, v: Tensor, momentum: float) -> None:
        """Online update of the current domain with one batch.

        The first batch gives p = normalise(mean_b v), every later one
        p = normalise(momentum * p + (1 - momentum) * mean_b v).

        Args:
            v: [B, K, D] unit features of the global batch, B >= 1.
            momentum: m in [0, 1].
        """
        mean = self._mean(v)
        # A tensor condition instead of an `if`: no wait for the device in every iteration.
        share = torch.where(self.current_count == 0, 0.0, momentum)
        blended = share * self.current + (1 - share) * mean
        self.current.copy_(functional.normalize(blended, dim=-1))
        self.current_count.add_(len(v))

    @torch.no_grad()
    def refresh(self, features: Tensor) -> None:
        """Replaces the current prototypes by the exact normalised means of features [N, K, D]."""
        self.current.copy_(functional.normalize(self._mean(features), dim=-1))
        self.current_count.fill_(len(features))

    def freeze(self) -> None:
        """Appends the current domain's K prototypes to the table and ends the domain.

        Raises:
            ValueError: no domain has begun, or none of its features has been seen.
        """
        domain = int(self.current_domain)
        if domain < 0 or int(self.current_count) == 0:
            raise ValueError(
                "nothing to freeze: call begin_domain, then update or refresh, before freeze"
            )
        self._append(domain, self.current[None], None, self.current_count[None])
        self.current_domain.fill_(-1)

    def add_identities(self, domain: int, features: Tensor, person_ids: Tensor) -> None:
        """Appends one frozen prototype per identity and attribute of a domain.

        Args:
            domain: index of the domain.
            features: [N, K, D] of the domain's training images.
            person_ids: [N] long; identities without images get no prototype.
        """
        identities, rows, counts = torch.unique(person_ids, return_inverse=True, return_counts=True)
        self._append(domain, identity_centres(features, rows, len(identities)), identities, counts)

    def attribute_prototypes(self) -> Tensor:
        """[T, K, D] of the frozen domains, in the order they were frozen."""
        return self.vectors[self.keys[:, 2] < 0].reshape(-1, *self.current.shape)

    def identity_prototypes(self) -> Tensor:
        """[N_old, K, D] of all identities added, by domain and then by identity."""
        return self.vectors[self.keys[:, 2] >= 0].reshape(-1, *self.current.shape)

    def _mean(self, features: Tensor) -> Tensor:
        expected = list(self.current.shape)
        if features.ndim != 3 or list(features.shape[1:]) != expected or len(features) == 0:
            raise ValueError(
                f"features must be [N >= 1, {expected[0]}, {expected[1]}], "
                f"came {list(features.shape)}"
            )
        return features.detach().to(self.current).mean(0)

    def _append(
        self, domain: int, prototypes: Tensor, identities: Tensor | None, counts: Tensor
    ) -> None:
        """Appends prototypes [R, K, D]; `identities` and `counts` are [R]."""
        num_sets, num_attributes, dim = prototypes.shape
        attributes = torch.arange(num_attributes, device=self.keys.device).repeat(num_sets)
        owners = attributes.new_full((num_sets,), -1) if identities is None else identities
        owners = owners.to(attributes).repeat_interleave(num_attributes)
        domains, components = torch.full_like(attributes, domain), torch.zeros_like(attributes)
        keys = torch.stack([domains, attributes, owners, components], dim=1)
        vectors = prototypes.detach().reshape(-1, dim).to(self.vectors)
        self.vectors = torch.cat([self.vectors, vectors])
        self.keys = torch.cat([self.keys, keys])
        self.counts = torch.cat(
            [self.counts, counts.to(self.counts).repeat_interleave(num_attributes)]
        )
