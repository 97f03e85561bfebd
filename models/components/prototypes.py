"""Prototypes of learned domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.losses.similarity import at_least_float32


def identity_centres(features: Tensor, person_ids: Tensor, num_persons: int) -> Tensor:
    """Compute the L2-normalised mean feature of every identity.

    Args:
        features: [N, ..., D].
        person_ids: [N] long in 0..num_persons-1.
        num_persons: C.

    Returns:
        [C, ..., D], at least float32; zeros for identities without images.
    """
    features = at_least_float32(features.detach())
    sums = features.new_zeros(num_persons, *features.shape[1:])
    # Sum and mean have the same direction.
    return functional.normalize(sums.index_add_(0, person_ids, features), dim=-1)


class PrototypeMemory(nn.Module):
    """Prototypes p[d, k] of frozen domains and of the domain being learned.

    The memory is a table. Row r holds the unit vector `vectors[r]` with the key `keys[r]` =
    (domain, attribute, identity or -1, component); it is the mean of `counts[r]` features.
    Component is 0 for a mean; the centroids of one attribute are numbered from 1. Rows are appended
    in complete sets of K attributes and are frozen from then on. `current` [K, D] belongs to the
    domain being learned.

    All state is in buffers, so a checkpoint restores a table of any length. Features are those of
    the global batch; the memory does not communicate between workers.

    Args:
        num_attributes: K; 1 for a single prototype of the global feature per domain.
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
        self._rows: tuple[Tensor, int, dict[str, Tensor]] | None = None

    @property
    def num_attributes(self) -> int:
        """K."""
        return self.current.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.current.shape[1]

    @property
    def num_domains(self) -> int:
        """Number of frozen domains T."""
        return len(self.keys[:, 0].unique())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frozen prototype vectors, without keys and counts (40 bytes per row)."""
        return self.vectors.numel() * self.vectors.element_size()

    def begin_domain(self, index: int) -> None:
        """Reset the current prototypes for domain `index` (>= 0, not yet frozen).

        Raises:
            ValueError: `index` is negative or already frozen.
        """
        if index < 0 or bool((self.keys[:, 0] == index).any()):
            raise ValueError(f"index: expected a new domain index >= 0, got {index}")
        self.current.zero_()
        self.current_count.zero_()
        self.current_domain.fill_(index)

    @torch.no_grad()
    def update(self, v: Tensor, momentum: float) -> None:
        """Update the current prototypes with one batch (exponential moving average).

        The first batch sets p = normalise(mean_b v), every later one
        p = normalise(momentum * p + (1 - momentum) * mean_b v).

        Args:
            v: [B, K, D] L2-normalised features of the global batch, B >= 1.
            momentum: m in [0, 1].
        """
        mean = self._mean(v)
        # A tensor condition instead of an `if` avoids GPU synchronisation in every iteration.
        share = torch.where(self.current_count == 0, 0.0, momentum)
        updated = share * self.current + (1 - share) * mean
        self.current.copy_(functional.normalize(updated, dim=-1))
        self.current_count.add_(len(v))

    @torch.no_grad()
    def refresh(self, features: Tensor) -> None:
        """Set the current prototypes to the normalised means of features [N, K, D]."""
        self.current.copy_(functional.normalize(self._mean(features), dim=-1))
        self.current_count.fill_(len(features))

    def freeze(self) -> None:
        """Append the K current prototypes to the table and end the domain.

        Raises:
            ValueError: no domain has begun, or it has no features yet.
        """
        domain = int(self.current_domain)
        if domain < 0 or int(self.current_count) == 0:
            raise ValueError(
                "freeze: expected a domain with features, got none; call begin_domain, then update "
                "or refresh, first"
            )
        self._append(domain, self.current[None], counts=self.current_count[None])
        self.current_domain.fill_(-1)

    def add_identities(self, domain: int, features: Tensor, person_ids: Tensor) -> None:
        """Append one frozen prototype per identity and attribute of a domain.

        Args:
            domain: index of the domain.
            features: [N, K, D], of the domain's training images.
            person_ids: [N] long; identities without images get no prototype.
        """
        identities, rows, counts = torch.unique(person_ids, return_inverse=True, return_counts=True)
        centres = identity_centres(features, rows, len(identities))
        self._append(domain, centres, counts=counts, identities=identities)

    def add_centroids(self, domain: int, features: Tensor, num_centroids: int, seed: int) -> None:
        """Append frozen k-means centroids of every attribute of a domain.

        Args:
            domain: index of the domain.
            features: [N, K, D], of the domain's training images.
            num_centroids: centroids per attribute; at most N are used.
            seed: seed of the k-means++ initialisation.
        """
        from sklearn.cluster import KMeans  # slow import, only needed here

        size = min(num_centroids, len(features))
        # n_init also accepts an int; the type stubs do not list it.
        clusters = KMeans(size, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
        centres, counts = list[Tensor](), list[Tensor]()
        for rows in features.detach().transpose(0, 1).double().cpu():
            fitted = clusters.fit(rows.numpy())
            centres.append(torch.from_numpy(fitted.cluster_centers_))
            counts.append(torch.from_numpy(fitted.labels_).long().bincount(minlength=size))
        vectors = functional.normalize(torch.stack(centres, dim=1), dim=-1)
        components = torch.arange(1, size + 1)
        self._append(domain, vectors, counts=torch.stack(counts, dim=1), components=components)

    def attribute_prototypes(self) -> Tensor:
        """Return the mean prototypes [T, K, D] of frozen domains, in the order of freezing."""
        return self._select("means")

    def centroids(self) -> Tensor:
        """Return all centroids [N_c, K, D], ordered by domain and component.

        Components of different attributes are not related.
        """
        return self._select("centroids")

    def identity_prototypes(self) -> Tensor:
        """Return all identity prototypes [N_old, K, D], ordered by domain and identity."""
        return self._select("identities")

    def _select(self, kind: Literal["means", "centroids", "identities"]) -> Tensor:
        """Return the rows of one kind as [N, K, D].

        Their numbers are computed once per table: the host waits for the number of selected rows.
        """
        keys, version = self.keys, self.keys._version
        if self._rows is None or self._rows[0] is not keys or self._rows[1] != version:
            has_identity, is_centroid = keys[:, 2] >= 0, keys[:, 3] > 0
            masks = {
                "means": ~has_identity & ~is_centroid,
                "centroids": is_centroid,
                "identities": has_identity,
            }
            rows = {name: mask.nonzero()[:, 0] for name, mask in masks.items()}
            self._rows = keys, version, rows
        return self.vectors[self._rows[2][kind]].reshape(-1, *self.current.shape)

    def _mean(self, features: Tensor) -> Tensor:
        expected = list(self.current.shape)
        if features.ndim != 3 or list(features.shape[1:]) != expected or len(features) == 0:
            raise ValueError(
                f"features: expected shape [N >= 1, {expected[0]}, {expected[1]}], "
                f"got {list(features.shape)}"
            )
        return features.detach().to(self.current).mean(0)

    def _append(
        self,
        domain: int,
        prototypes: Tensor,
        *,
        counts: Tensor,
        identities: Tensor | None = None,
        components: Tensor | None = None,
    ) -> None:
        """Append prototypes [R, K, D] with counts [R] or [R, K], identities and components [R]."""
        num_sets, num_attributes, dim = prototypes.shape
        attributes = torch.arange(num_attributes, device=self.keys.device).repeat(num_sets)

        def expand_rows(values: Tensor | None, absent: int) -> Tensor:
            if values is None:
                return torch.full_like(attributes, absent)
            return values.to(attributes).repeat_interleave(num_attributes)

        identity_keys, component_keys = expand_rows(identities, -1), expand_rows(components, 0)
        domains = torch.full_like(attributes, domain)
        keys = torch.stack([domains, attributes, identity_keys, component_keys], dim=1)
        row_counts = counts if counts.ndim == 2 else counts[:, None].expand(-1, num_attributes)
        vectors = prototypes.detach().reshape(-1, dim).to(self.vectors)
        self.vectors = torch.cat([self.vectors, vectors])
        self.keys = torch.cat([self.keys, keys])
        self.counts = torch.cat([self.counts, row_counts.reshape(-1).to(self.counts)])


MEMORIES = ("memory", "embeddings")
"""Attribute names of a learner's memories: of compared features, and of test embeddings."""


def memory_tensors(learner: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of both memories of a learner by path."""
    return {
        path: tensor
        for path, tensor in learner.state_dict().items()
        if path.split(".")[0] in MEMORIES
    }


def load_memory_tensors(learner: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace a learner's prototypes by published ones."""
    for path, tensor in tensors.items():
        memory, name = path.split(".")
        setattr(learner.get_submodule(memory), name, tensor)


def bytes_per_domain(*memories: PrototypeMemory) -> float:
    """Return the bytes of all memories, divided by the number of learned domains."""
    num_domains = max(1, *(memory.num_domains for memory in memories))
    return sum(memory.stored_bytes for memory in memories) / num_domains
