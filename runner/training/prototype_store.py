"""Versioned tensors (prototypes) that other processes may read while training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

# Only for annotations: the actor that keeps the tensors of a run loads this file without torch.
if TYPE_CHECKING:
    from torch import Tensor


class StaleVersionError(RuntimeError):
    """A writer knew another version than the newest one: someone else published in between.

    Attributes:
        expected: the version the writer had read.
        found: the newest version.
    """

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return (
            f"cannot publish on top of version {self.expected}: the newest version is "
            f"{self.found}. Read the latest version again, and let only one worker publish."
        )


class MemoryStore(Protocol):
    """A compare-and-swap register of named tensors; version 0 is empty."""

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Replaces the newest version.

        Args:
            tensors: any dtype, shape and device; copied.
            expected_version: the newest version that the writer knows.

        Returns:
            The new version, `expected_version` + 1.

        Raises:
            StaleVersionError: the newest version is another one; nothing changes.
        """
        ...

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """The newest version and its tensors on the CPU, the caller's own."""
        ...

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what a checkpoint holds, whatever was there."""
        ...


class LocalMemory:
    """The store of a run in one process."""

    def __init__(self) -> None:
        self._version = 0
        self._tensors: dict[str, Tensor] = {}

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        """Copies the tensors to the CPU if the writer is up to date."""
        if expected_version != self._version:
            raise StaleVersionError(expected_version, self._version)
        self.reset(expected_version + 1, tensors)
        return self._version

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        """Copies of the newest tensors."""
        return self._version, {name: tensor.clone() for name, tensor in self._tensors.items()}

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors to the CPU."""
        self._version = version
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
