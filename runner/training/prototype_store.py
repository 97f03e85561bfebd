"""Versioned store of prototypes that other processes can read during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

# For annotations only: the prototype actor imports this file and must not import torch.
if TYPE_CHECKING:
    from torch import Tensor


class StaleVersionError(RuntimeError):
    """The expected version is not the latest one, because another writer published in between.

    Attributes:
        expected: version that the writer had read.
        latest: latest version in the store.
    """

    def __init__(self, expected: int, latest: int) -> None:
        super().__init__(expected, latest)
        self.expected = expected
        self.latest = latest

    def __str__(self) -> str:
        return (
            f"cannot publish: expected latest version {self.expected}, got {self.latest}; "
            "read the latest version again, and publish from one worker only"
        )


class PrototypeStore(Protocol):
    """Compare-and-swap store of named tensors; version 0 is empty."""

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Publishes a new version.

        Args:
            tensors: tensors of any dtype, shape and device; they are copied.
            expected_version: latest version known to the writer.

        Returns:
            The new version, `expected_version` + 1.

        Raises:
            StaleVersionError: the latest version differs; the store is not changed.
        """
        ...

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """Returns the latest version and copies of its tensors on the CPU."""
        ...

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Replaces version and tensors, for example with those of a checkpoint."""
        ...


class LocalPrototypeStore:
    """Prototype store of a run in one process."""

    def __init__(self) -> None:
        self._version = 0
        self._tensors: dict[str, Tensor] = {}

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Copies the tensors to the CPU if `expected_version` is the latest version."""
        if expected_version != self._version:
            raise StaleVersionError(expected_version, self._version)
        self.reset(expected_version + 1, tensors)
        return self._version

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """Returns copies of the latest tensors."""
        return self._version, {name: tensor.clone() for name, tensor in self._tensors.items()}

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors to the CPU."""
        self._version = version
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
